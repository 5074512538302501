"""What a model calls a string or a number, read as the tools that there are declare it."""

import json

import pytest

from cli.tools.toolbox import Toolbox
from dsv4_mlx.chat import ReplyParser, ToolCall
from dsv4_mlx.chat.tokens import DSML


@pytest.fixture(scope="module")
def toolbox(tmp_path_factory: pytest.TempPathFactory):
    box = Toolbox(tmp_path_factory.mktemp("work"), lambda question: "n")
    yield box
    box.close()


def declared(toolbox: Toolbox) -> list[tuple[str, str, str]]:
    """(tool, argument, type) of every argument of every built-in tool."""
    functions = [definition["function"] for definition in toolbox.definitions()]
    return [
        (function["name"], name, schema["type"])
        for function in functions
        for name, schema in function["parameters"]["properties"].items()
    ]


def read(toolbox: Toolbox, tool: str, name: str, kind: str, text: str) -> object:
    parser = ReplyParser("chat", tools=toolbox.definitions())
    parameter = f'<{DSML}parameter name="{name}" string="{kind}">{text}</{DSML}parameter>'
    events = parser.feed(f'<{DSML}invoke name="{tool}">\n{parameter}\n</{DSML}invoke>')
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    return json.loads(call.arguments)[name]


VALUES = {"string": ("5", "5"), "integer": ("5", 5), "boolean": ("true", True), "number": ("5", 5)}


@pytest.mark.parametrize("kind", ["true", "false"])
def test_every_argument_is_of_its_declared_type(toolbox: Toolbox, kind: str) -> None:
    found = declared(toolbox)
    assert {wanted for _, _, wanted in found} >= {"string", "integer"}
    for tool, name, wanted in found:
        text, meant = VALUES[wanted]
        value = read(toolbox, tool, name, kind, text)
        assert (value, type(value)) == (meant, type(meant)), (tool, name)


def test_a_file_of_json_is_written_as_text(toolbox: Toolbox) -> None:
    content = read(toolbox, "write_file", "content", "false", '{"a": [1, 2]}')
    assert content == '{"a": [1, 2]}'
