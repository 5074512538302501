"""Conversations that go on by the id of a response."""

import os
from pathlib import Path
from typing import Any

import pytest

from cli.serve.faults import RequestFault
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponse, KeptResponses
from cli.serve.sealing import Seals
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.driven import Server, context, script

SEALS = Seals.for_now()
NOT_AT_ALL = {"effort": "none"}
REPLIES = ("<think>One.</think>First.", "<think>Two.</think>Second.", "Third.")


def kept(number: int, previous: int | None = None, owner: str = "me") -> KeptResponse:
    before = None if previous is None else f"resp_{previous}"
    output = [{"type": "message", "id": f"msg_{number}_0", "role": "assistant", "content": "a"}]
    asked = [{"role": "user", "content": f"q{number}"}]
    return KeptResponse(owner, before, asked, {"id": f"resp_{number}", "output": output})


def asked_in(items: list[Any]) -> list[str]:
    return [item["content"] for item in items if item["role"] == "user"]


@pytest.fixture(params=["memory", "files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "responses" if request.param == "files" else None


def test_a_conversation_goes_on_from_a_response_and_reads_what_is_new(
    folder: Path | None,
) -> None:
    server = Server(ResponsesDialect(SEALS, KeptResponses(folder)), script(*REPLIES))
    previous, held = None, 0
    for question in ("One?", "Two?", "Three?"):
        body = {"model": "nano", "input": question, "previous_response_id": previous}
        answered = server.ask({**body, "tools": [{"type": "function", "name": "f"}]})
        assert answered.done is not None
        assert answered.done.usage.cached_tokens >= held
        held = answered.done.usage.prompt_tokens + answered.done.usage.completion_tokens - 1
        previous = answered.whole["id"]
        if folder is not None:  # the program begins anew
            server.dialect = ResponsesDialect(SEALS, KeptResponses(folder))
    assert answered.whole["output"][-1]["content"][0]["text"] == "Third."


def test_a_response_without_output_is_a_turn_of_its_own() -> None:
    """A reply that is cut in the markup of a call says nothing."""
    reply = ScriptedReply(tool_calls=({"name": "f", "arguments": {"a": 1}},))
    server = Server(ResponsesDialect(SEALS, KeptResponses()), script(reply, "Second."))
    body = {"model": "nano", "input": "One?", "max_output_tokens": 6, "reasoning": NOT_AT_ALL}
    first = server.ask(body)
    assert first.done is not None and not first.whole["output"]
    second = server.ask(body | {"input": "Two?", "previous_response_id": first.whole["id"]})
    assert second.done is not None
    assert second.done.usage.cached_tokens >= first.done.usage.prompt_tokens - 1


def test_instructions_are_those_of_the_request_alone() -> None:
    server = Server(ResponsesDialect(SEALS, KeptResponses()), script(*REPLIES))
    first = server.ask({"model": "nano", "input": "One?", "instructions": "Be brief."})
    body = {"model": "nano", "input": "Two?", "previous_response_id": first.whole["id"]}
    prompt = server.prompt(body)
    assert "One?" in prompt and "First." in prompt and "Be brief." not in prompt


def test_an_item_is_found_by_its_id() -> None:
    server = Server(ResponsesDialect(SEALS, KeptResponses()), script(*REPLIES))
    first = server.ask({"model": "nano", "input": "One?"})
    references = [{"type": "item_reference", "id": item["id"]} for item in first.whole["output"]]
    items = [{"role": "user", "content": "One?"}, *references, {"role": "user", "content": "Two?"}]
    asked = server.dialect.read({"model": "nano", "input": items}, context())
    assert asked.request.messages[1] == {
        "role": "assistant",
        "content": "First.",
        "reasoning_content": "One.",
    }


def test_what_is_not_to_be_kept_is_not() -> None:
    server = Server(ResponsesDialect(SEALS, KeptResponses()), script(*REPLIES))
    first = server.ask({"model": "nano", "input": "One?", "store": False})
    with pytest.raises(RequestFault, match="is not kept here") as raised:
        server.ask({"model": "nano", "input": "?", "previous_response_id": first.whole["id"]})
    refused = server.dialect.error(raised.value.fault)
    assert refused.status == 400
    assert refused.body["error"]["code"] == "previous_response_not_found"


def test_responses_are_their_owners(folder: Path | None) -> None:
    responses = KeptResponses(folder)
    responses.put(kept(1))
    assert responses.get("me", "resp_1") == kept(1)
    assert responses.get("you", "resp_1") is None
    assert responses.item("you", "msg_1_0") is None
    assert not responses.delete("you", "resp_1")
    with pytest.raises(RequestFault):
        responses.history("you", "resp_1")
    assert responses.delete("me", "resp_1")
    assert responses.get("me", "resp_1") is None


def test_what_nobody_came_to_goes_first_and_never_before_what_goes_on_from_it(
    folder: Path | None,
) -> None:
    responses = KeptResponses(folder, most=3)
    responses.put(kept(1))
    responses.put(kept(2, previous=1))
    responses.put(kept(3))
    responses.history("me", "resp_2")
    responses.put(kept(4))
    assert asked_in(responses.history("me", "resp_2")) == ["q1", "q2"]
    assert responses.get("me", "resp_3") is None
    responses.get("me", "resp_4")
    responses.put(kept(5, previous=4))
    assert asked_in(responses.history("me", "resp_5")) == ["q4", "q5"]
    assert responses.get("me", "resp_2") is None
    assert asked_in(responses.history("me", "resp_1")) == ["q1"]


def test_bytes_are_bounded(folder: Path | None) -> None:
    size = len(kept(1).to_json())
    responses = KeptResponses(folder, most_bytes=2 * size)
    for number in range(5):
        responses.put(kept(number))
    there = [number for number in range(5) if responses.get("me", f"resp_{number}")]
    assert there == [3, 4]
    if folder is not None:
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 2 * size


def test_a_program_that_begins_anew_forgets_in_the_same_order(tmp_path: Path) -> None:
    responses = KeptResponses(tmp_path)
    for number in range(4):
        responses.put(kept(number))
        os.utime(tmp_path / f"resp_{number}.json", ns=(0, number))
    os.utime(tmp_path / "resp_0.json", ns=(0, 9))
    responses = KeptResponses(tmp_path, most=3)
    responses.put(kept(7))
    assert [n for n in (0, 1, 2, 3, 7) if responses.get("me", f"resp_{n}")] == [0, 3, 7]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"owner": "me"}',
        '{"owner": "me", "previous": [], "asked": [], "response": {"output": []}}',
        '{"owner": "me", "previous": null, "asked": [], "response": []}',
    ],
)
def test_a_damaged_file_is_no_response(tmp_path: Path, content: str) -> None:
    (tmp_path / "resp_1.json").write_text(content)
    assert KeptResponses(tmp_path).get("me", "resp_1") is None


def test_what_a_killed_program_was_writing_goes(tmp_path: Path) -> None:
    old, new = tmp_path / ".resp_1.7", tmp_path / ".resp_2.8"
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, 0))
    KeptResponses(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [new.name]


def test_files_that_lead_to_themselves_end(folder: Path | None) -> None:
    responses = KeptResponses(folder)
    responses.put(kept(1, previous=2))
    responses.put(kept(2, previous=1))
    with pytest.raises(RequestFault, match="is not kept here"):
        responses.history("me", "resp_1")


def test_names_of_files_are_no_way_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(kept(1).to_json())
    responses = KeptResponses(tmp_path / "responses")
    assert responses.get("me", "../secret") is None
    assert not responses.delete("me", "../secret")
    assert (tmp_path / "secret.json").exists()


def test_a_response_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, list[str]]] = []

    def fsync(descriptor: int) -> None:
        names = [path.name for path in (tmp_path / "responses").glob("*.json")]
        synced.append((os.fstat(descriptor).st_size, names))

    monkeypatch.setattr(os, "fsync", fsync)
    KeptResponses(tmp_path / "responses").put(kept(1))
    assert synced == [(len(kept(1).to_json()), [])]


def test_a_disk_that_is_full_costs_the_response_alone(tmp_path: Path) -> None:
    responses = KeptResponses(tmp_path / "responses")
    (tmp_path / "responses").rmdir()
    responses.put(kept(1))
    assert responses.get("me", "resp_1") is None
