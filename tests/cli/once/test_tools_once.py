"""Tools where one message is answered: what needs no permission is done, the rest is refused."""

import json
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli.config_servers import Server
from cli.environment import Environment
from cli.once.tools import ToolOutput, ToolsAlone
from cli.show.output import PlainOutput
from cli.tools.use import toolbox_in
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done, Event, Usage
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.settings import Thinking
from tests.cli.running import Run, Stream, run


def calling(name: str, **arguments: object) -> dict[str, object]:
    return {"text": "Let me look.", "tool_calls": [{"name": name, "arguments": arguments}]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    working = tmp_path / "working"
    working.mkdir()
    (working / "a.txt").write_text("forty-two\n", encoding="utf-8")
    monkeypatch.chdir(working)
    return working


def answered(tmp_path: Path, *replies: object, options: tuple[str, ...] = ("--tools",)) -> Run:
    """One message to a model that says `replies`."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"replies": replies}), encoding="utf-8")
    engine = ("--engine", f"fake:{script}", "--think", "none", "--temp", "0")
    return run(*engine, "-p", "What is in a.txt?", *options)


def records(done: Run, *types: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event for event in events if event["type"] in types]


def test_the_model_goes_on_with_what_a_tool_gave_until_it_calls_none(tmp_path: Path) -> None:
    calls = calling("read_file", path="a.txt"), calling("calculator", expression="6*7")
    done = answered(tmp_path, *calls, "It is 42.", options=("--tools", "--json"))
    told = records(done, "tool_call", "tool_result", "done")
    kinds = [event["type"] for event in told]
    assert kinds == [*["tool_call", "done", "tool_result"] * 2, "done"]
    read, calculated = (event["result"] for event in told if event["type"] == "tool_result")
    assert "forty-two" in read and calculated == "42"
    reasons = [event["finish_reason"] for event in told if event["type"] == "done"]
    assert reasons == ["tool_calls", "tool_calls", "stop"]
    assert done.status == 0


@pytest.mark.parametrize("more", [(), ("--no-stream",)])
def test_for_a_person_answers_are_on_stdout_and_calls_beside_them(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    call = calling("calculator", expression="6*7")
    done = answered(tmp_path, call, "It is 42.", options=("--tools", *more))
    told = "tool call: calculator\n  expression: 6*7\n"
    assert done == Run(0, "Let me look.\nIt is 42.\n", told)


def test_what_would_be_asked_about_is_refused_and_nothing_is_done(
    tmp_path: Path, folder: Path
) -> None:
    call = calling("run_command", command="touch made")
    done = answered(tmp_path, call, "I may not.", options=("--tools", "--json"))
    (result,) = records(done, "tool_result")
    assert result["result"] == "Error: The user did not allow this."
    assert done.stderr == "[refused, since nobody is asked here: run this command?]\n"
    assert not (folder / "made").exists()


def test_a_model_that_calls_for_ever_is_told_to_answer_and_ended_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.once.tools.MOST_ROUNDS", 2)
    call = calling("calculator", expression="6*7")
    done = answered(tmp_path, call, options=("--tools", "--json"))
    first, second, third = (one["result"] for one in records(done, "tool_result"))
    assert first == second == "42" and third.startswith("Error: no more calls are run")
    (error,) = records(done, "error")
    assert "tools in 4 answers to one message, of which 2 were run" in error["message"]
    assert done.status == 1
    heeds = answered(tmp_path, call, call, call, "It is 42.")
    assert heeds.status == 0 and heeds.stdout.endswith("It is 42.\n")


@pytest.mark.parametrize(
    ("options", "setting", "has_tools"),
    [
        ((), "", False),
        ((), "tools = true", True),
        (("--no-tools",), "tools = true", False),
        (("--tools",), "", True),
    ],
)
def test_tools_are_there_where_they_are_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    setting: str,
    has_tools: bool,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(setting, encoding="utf-8")
    monkeypatch.setenv("DSV4_HOME", str(home))
    call = calling("calculator", expression="6*7")
    done = answered(tmp_path, call, "It is 42.", options=options)
    assert ("It is 42." in done.stdout) is has_tools


def test_a_server_that_does_not_come_is_told(tmp_path: Path) -> None:
    environment = Environment(stdin=Stream(), stdout=Stream(), stderr=Stream(), variables={})
    servers = [Server("absent", str(tmp_path / "no-such-program"))]
    tools = ToolsAlone(toolbox_in(tmp_path, servers), PlainOutput(environment))
    chat = Chat()
    tools.offer(chat)  # type: ignore[arg-type]
    tools.close()
    assert len(chat.settings.tools) == 6
    assert isinstance(environment.stderr, Stream)
    assert environment.stderr.getvalue().startswith("dsv4-chat: ")
    assert "absent" in environment.stderr.getvalue()


@dataclass
class Chat:
    """A conversation whose model calls a tool and is cancelled then."""

    settings: AnswerSettings = field(default=AnswerSettings(Thinking("chat")))
    cancelled: int = 0

    def first(self) -> Generator[Event, None, None]:
        yield ToolCall("calculator", '{"expression": "6*7"}', id="1")
        yield Done("tool_calls", Usage(1, 0, 1))

    def answer_tools(self, results: list[tuple[str, str]]) -> Generator[Event, None, None]:
        yield Done("cancelled", Usage(1, 0, 0))

    def cancel(self) -> None:
        self.cancelled += 1


def test_what_is_stopped_calls_nothing_more(tmp_path: Path) -> None:
    environment = Environment(stdin=Stream(), stdout=Stream(), stderr=Stream(), variables={})
    tools, chat = ToolsAlone(toolbox_in(tmp_path, ()), PlainOutput(environment)), Chat()
    tools.offer(chat)  # type: ignore[arg-type]
    tools.stop()
    turn = tools.turn(chat, chat.first())  # type: ignore[arg-type]
    results = [event.result for event in turn if isinstance(event, ToolOutput)]
    tools.close()
    assert results == ["Error: the user stopped this."] and chat.cancelled == 2
