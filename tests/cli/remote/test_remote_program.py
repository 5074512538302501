"""`dsv4-chat --server URL`: the program as a person runs it, with a server's model."""

import json
import os
from collections.abc import Iterator

import pytest

from tests.cli.remote.server import ToldServer, text, told_server, usage
from tests.cli.running import run

END = text(finish="stop")


@pytest.fixture
def told() -> Iterator[ToldServer]:
    with told_server() as server:
        yield server


def test_one_message_is_answered_by_the_server(told: ToldServer) -> None:
    told.says(text(reasoning_content="Hm."), text("Four."), END, usage(12, 3, 5, 2))
    ran = run("--server", told.url, "-p", "2+2?", variables={"DSV4_API_KEY": "s3cret"})
    assert (ran.status, ran.stdout) == (0, "Four.\n")
    assert "Hm." in ran.stderr and "s3cret" not in ran.stderr
    assert [headers["Authorization"] for headers in told.headers] == ["Bearer s3cret"] * 2


def test_the_prompt_goes_back_and_on_and_refuses_what_is_the_servers(told: ToldServer) -> None:
    for said in ("one", "two", "two again"):
        told.says(text(said), END, usage(9, 0, 1))
    typed = "first\n/context\n/draft\nsecond\n/undo\nother\n/model x\n/model\n/loop stop\n/quit\n"
    ran = run("--server", told.url, typed=typed)
    assert ran.status == 0
    for said in (
        "10 of 4,096 tokens; what they take in memory is the server's",
        "the server decides what guesses tokens ahead",
        "took back: second",
        "the model is the server's",
        f"[model {told.url} ",
        "the server decides what becomes of a reply that repeats",
    ):
        assert said in ran.stderr
    asked = [message["content"] for message in told.asked[2]["messages"]]
    assert asked == ["first", "one", "other"]


def test_a_conversation_with_a_server_is_kept_and_goes_on(told: ToldServer) -> None:
    told.says(text("one"), END)
    told.says(text("two"), END)
    assert run("--server", told.url, typed="first\n/quit\n").status == 0
    ran = run("--server", told.url, "--continue", "-p", "second")
    assert (ran.status, ran.stdout) == (0, "two\n")
    asked = [message["content"] for message in told.asked[1]["messages"]]
    assert asked == ["first", "one", "second"]
    assert "cache" not in ran.stderr
    folder = os.path.join(os.environ["DSV4_HOME"], "sessions")
    assert all(name.endswith(".jsonl") for name in os.listdir(folder))


def test_a_server_that_is_away_costs_nothing_of_what_was_said(told: ToldServer) -> None:
    told.says(text("one"), END)
    told.answers.append((None,))
    told.says(text("two"), END)
    ran = run("--server", told.url, typed="first\nsecond\nsecond\n/quit\n")
    assert ran.status == 0
    assert "ended in the middle of an answer" in ran.stderr
    asked = [message["content"] for message in told.asked[2]["messages"]]
    assert asked == ["first", "one", "second"]


def test_no_server_is_one_sentence() -> None:
    ran = run("--server", "http://127.0.0.1:1", "-p", "a")
    assert ran.status == 1
    assert ran.stderr.splitlines()[-1].startswith("dsv4-chat: http://127.0.0.1:1 does not answer")


def test_a_model_of_ones_own_and_a_servers_are_too_many() -> None:
    ran = run("--server", "http://127.0.0.1:1", "--kv", "bf16", "-p", "a")
    assert ran.status == 2 and "--kv is about a model that is opened here" in ran.stderr


def test_the_doctor_looks_at_the_server(told: ToldServer) -> None:
    told.health = (200, {"status": "ready", "waiting": 2, "running": 1})
    ran = run("--server", told.url, "doctor", variables={"DSV4_API_KEY": "s3cret"})
    assert ran.status == 0
    assert f"server    {told.url}" in ran.stdout
    assert "its model is flash, used with a context of 4,096 tokens" in ran.stdout
    assert "it is ready, requests: 1 running, 2 waiting" in ran.stdout
    assert "model     " not in ran.stdout  # none of its own
    found = json.loads(run("--server", told.url, "doctor", "--json").stdout)
    assert found["server"]["model"] == "flash" and found["server"]["has_key"] is False


@pytest.mark.parametrize(
    ("health", "line", "problem"),
    [
        ((404, {"error": {"message": "Nothing."}}), "it does not tell how it is", None),
        ((503, {"status": "loading"}), "it is loading", "is loading: its own screen or log"),
        ((503, {"status": "failed", "error": "No file."}), "it is failed", "is failed: No file."),
    ],
)
def test_the_doctor_says_how_the_server_is(
    told: ToldServer, health: tuple[int, object], line: str, problem: str | None
) -> None:
    told.health = health
    ran = run("--server", told.url, "doctor")
    assert ran.status == (0 if problem is None else 1)
    assert line in ran.stdout
    assert problem is None or problem in ran.stdout


def test_the_doctor_says_that_no_server_is_there() -> None:
    ran = run("--server", "http://127.0.0.1:1", "doctor")
    assert ran.status == 1 and "problem   http://127.0.0.1:1 does not answer" in ran.stdout
    ran = run("--server", "http://127.0.0.1:1", "doctor", "--disk")
    assert ran.status == 2 and "--disk is about a model that is opened here" in ran.stderr
