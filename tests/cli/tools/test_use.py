"""Tools turned on and off, and what one conversation allowed when another begins."""

import json
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from cli.tools.toolbox import Toolbox
from cli.tools.use import ToolUse
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.errors import UsageError
from tests.cli.tools.asking import Person


def use(folder: Path, person: Person) -> ToolUse:
    def make(ask, stopped):
        return Toolbox(folder, ask, stopped=stopped)

    return ToolUse(make, person, lambda: False)


def test_the_next_conversation_asks_again(tmp_path: Path) -> None:
    person = Person("a", "n")
    tools = use(tmp_path, person)
    tools.turn(True)
    write = partial(ToolCall, "write_file")
    for name in ("a", "b"):
        tools.run(write(json.dumps({"path": name, "content": name})))
    assert len(person.asked) == 1
    tools.forget()
    refused = tools.run(write(json.dumps({"path": "c", "content": "c"})))
    assert refused == "Error: The user did not allow this."
    assert (len(person.asked), (tmp_path / "c").exists()) == (2, False)
    tools.close()


def test_forgetting_without_open_tools_does_nothing(tmp_path: Path) -> None:
    tools = use(tmp_path, Person())
    tools.forget()
    assert tools.definitions() == ()


def test_tools_that_start_slowly_are_waited_for_when_they_are_needed(tmp_path: Path) -> None:
    begin = Event()

    def make(ask, stopped):
        assert begin.wait(60)
        return Toolbox(tmp_path, ask, stopped=stopped)

    tools = ToolUse(make, Person(), lambda: False)
    tools.turn(True)
    assert tools.is_starting
    tools.forget()  # waits for nothing
    begin.set()
    assert any(one["function"]["name"] == "calculator" for one in tools.definitions())
    assert not tools.is_starting
    tools.close()
    assert tools.definitions() == ()


def test_tools_that_are_starting_are_ended(tmp_path: Path) -> None:
    made = []

    def make(ask, stopped):
        while not stopped():
            pass
        made.append(Toolbox(tmp_path, ask, stopped=stopped))
        return made[-1]

    tools = ToolUse(make, Person(), lambda: False)
    tools.turn(True)
    tools.leave()
    assert made[0]._workspace._descriptor == -1


def test_what_keeps_tools_away_is_said_once(tmp_path: Path) -> None:
    tools = use(tmp_path / "gone", Person())
    tools.turn(True)
    with pytest.raises(UsageError, match="Tools need a working folder"):
        tools.problems()
    assert tools.definitions() == ()
