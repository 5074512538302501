"""Tools turned on and off, and what one conversation allowed when another begins."""

import json
from functools import partial
from pathlib import Path

from cli.tools.toolbox import Toolbox
from cli.tools.use import ToolUse
from dsv4_mlx.chat.messages import ToolCall
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
    assert tools.names() == []
