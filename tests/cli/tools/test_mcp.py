"""MCP servers: their tools beside ours, asking, trust, and servers that misbehave."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.config_servers import Server
from cli.tools import mcp
from cli.tools.mcp import MISSING, tool_name
from cli.tools.toolbox import Toolbox
from tests.cli.tools.asking import Person, run, toolbox

HERE = Path(__file__).parent
needs_mcp = pytest.mark.needs("mcp")


def real(**options: object) -> Server:
    return Server("notes", sys.executable, (str(HERE / "mcp_server.py"),), **options)  # type: ignore[arg-type]


def bad(mode: str, **options: object) -> Server:
    arguments = ("-I", "-S", str(HERE / "bad_mcp_server.py"), mode)
    options = {"trust": True, "timeout_s": 60.0, **options}
    return Server("bad", sys.executable, arguments, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def person() -> Person:
    return Person("y")


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory, person: Person) -> Iterator[Toolbox]:
    """A toolbox with the real server, started once."""
    box = toolbox(tmp_path_factory.mktemp("notes"), person, servers=[real()])
    yield box
    box.close()


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A function that gives a toolbox with a server of some mode, which is not waited for long."""
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.1)
    opened: list[Toolbox] = []

    def start(mode: str, **options: object) -> Toolbox:
        stopped = options.pop("stopped", lambda: False)
        opened.append(toolbox(tmp_path, servers=[bad(mode, **options)], stopped=stopped))
        return opened[-1]

    yield start
    for box in opened:
        box.close()


@needs_mcp
def test_the_tools_of_a_server_stand_beside_ours_under_its_name(notes: Toolbox) -> None:
    assert notes.problems() == []
    definitions = {d["function"]["name"]: d["function"] for d in notes.definitions()}
    assert list(definitions)[-3:] == ["notes__greet", "notes__fail", "notes__count"]
    assert definitions["notes__greet"]["description"] == "Greet somebody."
    assert definitions["notes__greet"]["parameters"]["required"] == ["name"]
    json.dumps(definitions)


@needs_mcp
def test_a_call_shows_its_arguments_and_gives_the_text(notes: Toolbox, person: Person) -> None:
    person.asked.clear()
    assert run(notes, "notes__greet", name="Ada", times=2) == "Hello Ada. Hello Ada."
    (question,) = person.asked
    assert question.text == "call a tool of the MCP server notes?"
    assert question.details == ("greet", "{", '  "name": "Ada",', '  "times": 2', "}")
    assert "call greet of notes, with any arguments" in dict(question.choices)["a"]


@needs_mcp
def test_a_call_that_was_always_allowed_is_asked_about_after_forgetting(tmp_path: Path) -> None:
    person = Person("a", "n")
    box = toolbox(tmp_path, person, servers=[real()])
    try:
        for _ in range(2):
            assert run(box, "notes__greet", name="Ada", times=1) == "Hello Ada."
        assert len(person.asked) == 1
        box.forget()
        text = run(box, "notes__greet", name="Ada", times=1)
        assert text == "Error: The user did not allow this."
    finally:
        box.close()


@needs_mcp
def test_a_structured_result_is_text_too(notes: Toolbox) -> None:
    assert json.loads(run(notes, "notes__count", words=["a", "b", "a"])) == {"a": 2, "b": 1}


@needs_mcp
def test_a_failing_tool_is_its_result(notes: Toolbox) -> None:
    text = run(notes, "notes__fail")
    assert text.startswith("Error: ")
    assert "fail" in text


@needs_mcp
def test_arguments_are_checked_before_the_server_sees_them(notes: Toolbox) -> None:
    assert run(notes, "notes__greet") == "Error: The argument name is missing."


@needs_mcp
def test_a_no_calls_nothing(tmp_path: Path) -> None:
    person = Person("n")
    box = toolbox(tmp_path, person, servers=[bad("dies", trust=False)])
    try:
        assert run(box, "bad__good") == "Error: The user did not allow this."
    finally:
        box.close()


@needs_mcp
def test_a_trusted_server_is_not_asked_about(misbehaving) -> None:
    assert run(misbehaving("huge"), "bad__good").startswith("yyy")  # whoever is asked says no


@needs_mcp
def test_names_and_descriptions_are_made_plain_and_short(misbehaving) -> None:
    *_, other = misbehaving("once").definitions()
    assert other["function"]["name"] == "bad__bad_tool__"
    assert len(other["function"]["description"]) == 2_000


ENDED = "ended without an answer; the next call starts it again."


@needs_mcp
@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("dies", f"Error: The MCP server bad {ENDED}"),
        ("floods", f"Error: The MCP server bad {ENDED}"),
        ("garbage", "after garbage"),
        ("nonsense", "Error: The MCP server bad sent something that is no answer."),
        ("mixed", "<｜User｜>\x1b[31m\n[image, left out]"),
    ],
    ids=["dies", "floods", "garbage", "nonsense", "mixed"],
)
def test_a_server_that_misbehaves_is_a_result(misbehaving, mode: str, result: str, capfd) -> None:
    box = misbehaving(mode)
    assert run(box, "bad__good") == result
    assert run(box, "calculator", expression="1 + 1") == "2"
    assert capfd.readouterr() == ("", "")


@needs_mcp
def test_a_server_that_hangs_is_given_up(misbehaving) -> None:
    text = run(misbehaving("hangs", timeout_s=0.3), "bad__good")
    assert text == "Error: The MCP server bad did not answer within 0.3 s."


@needs_mcp
def test_a_call_ends_when_the_person_stops_it(misbehaving) -> None:
    stop = threading.Event()
    box = misbehaving("hangs", stopped=stop.is_set)
    stop.set()
    assert run(box, "bad__good") == "Error: The user stopped this."


@needs_mcp
def test_a_server_that_ended_is_started_again(misbehaving) -> None:
    box = misbehaving("once")
    first = run(box, "bad__good")
    results = {run(box, "bad__good") for _ in range(3)}
    assert first.isdigit()
    assert any(text.isdigit() and text != first for text in results)


@needs_mcp
@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("never starts", "The MCP server bad did not answer within 0.3 s."),
        ("floods at once", f"The MCP server bad {ENDED}"),
    ],
    ids=["never starts", "floods at once"],
)
def test_a_server_that_does_not_start_is_a_problem(
    misbehaving, mode: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout_s = 0.3 if mode == "never starts" else 60.0
    monkeypatch.setattr("cli.tools.mcp_connection.START_TIMEOUT_S", timeout_s)
    box = misbehaving(mode, timeout_s=timeout_s)
    assert box.problems() == [problem]
    assert len(box.definitions()) == 6


@needs_mcp
def test_a_program_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    box = toolbox(tmp_path, servers=[Server("lost", "no-such-program")])
    assert box.problems() == ["The MCP server lost: there is no program no-such-program."]
    box.close()


def test_a_missing_package_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mcp.importlib.util, "find_spec", lambda name: None)
    box = toolbox(tmp_path, servers=[real()])
    assert box.problems() == [MISSING]
    assert 'pip install "dsv4-mlx[mcp]"' in MISSING
    box.close()


def test_tool_names_are_letters_digits_and_dashes() -> None:
    assert tool_name("a-b", "get x/y") == "a-b__get_x_y"
    assert len(tool_name("a", "x" * 100)) == 64
