"""Tools of OpenAI's responses: functions, tools that take free text, and groups with a name.

The model knows functions alone. A tool that takes free text is a function with one text, `input`;
a tool of a group carries the group's name before its own. Calls are told in the client's terms.
Tools that OpenAI's servers run themselves, such as its web search, are not here and left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cli.serve import allowed_tools
from cli.serve.reading import Body, invalid
from dsv4_mlx.files.documents import DocumentError, parse_json, parse_object
from dsv4_mlx.serving.request import ToolChoice

INPUT: Final = "input"
"""The only argument of a tool that takes free text."""
_NOTHING: Final = {"type": "object", "properties": {}}


def flat_name(name: str, group: str | None) -> str:
    """The name that the model knows a tool by."""
    return f"{group.rstrip('_')}__{name.lstrip('_')}" if group else name


@dataclass(frozen=True)
class ClientTool:
    """A tool as the client calls it."""

    name: str
    group: str | None = None
    takes_text: bool = False

    @property
    def named(self) -> dict[str, str]:
        """The fields of an item that name it."""
        return {"name": self.name, **({"namespace": self.group} if self.group else {})}


@dataclass(frozen=True)
class ClientTools:
    """The tools of one request."""

    definitions: tuple[Mapping[str, Any], ...] = ()
    """As the encoder takes them."""
    left_out: tuple[str, ...] = ()
    """Types of the tools that are not here."""
    _by_name: Mapping[str, ClientTool] = field(default_factory=dict)

    def of(self, name: str) -> ClientTool:
        """The tool that the model calls `name`; a function where there is none."""
        return self._by_name.get(name, ClientTool(name))


def read_tools(body: Body) -> ClientTools:
    """The tools of a body; RequestFault for one that cannot be read."""
    found = list(_tools(body.get("tools"), "tools"))
    by_name: dict[str, ClientTool] = {}
    definitions = []
    for tool, definition in found:
        if isinstance(tool, ClientTool) and definition["name"] not in by_name:
            by_name[definition["name"]] = tool
            definitions.append(definition)
    left_out = tuple(tool for tool, _ in found if isinstance(tool, str))
    return ClientTools(tuple(definitions), left_out, by_name)


def _tools(
    tools: object, where: str, group: str | None = None
) -> Iterator[tuple[ClientTool | str, Mapping[str, Any]]]:
    """Each tool with its definition; of one that is left out its type."""
    if not isinstance(tools, list | None):
        raise invalid(where, "a list", tools)
    for place, tool in enumerate(tools or ()):
        at = f"{where}[{place}]"
        if not isinstance(tool, Mapping):
            raise invalid(at, "an object", tool)
        match tool.get("type", "function"):
            case "function":
                known = ClientTool(_name(tool, at), group)
                schema = tool.get("parameters")
                if not isinstance(schema, Mapping | None):
                    raise invalid(f"{at}.parameters", "an object", schema)
                yield known, _definition(known, tool.get("description"), schema or _NOTHING)
            case "custom":
                known = ClientTool(_name(tool, at), group, takes_text=True)
                yield known, _definition(known, _told(tool), _TAKES_TEXT)
            case "namespace":
                yield from _tools(tool.get("tools"), f"{at}.tools", _name(tool, at))
            case kind:
                yield str(kind), {}


def _name(tool: Body, where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise invalid(f"{where}.name", "a name", name)
    return name


_TAKES_TEXT: Final = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
}


def _definition(
    tool: ClientTool, description: object, schema: Mapping[str, Any]
) -> Mapping[str, Any]:
    told = {"description": description} if isinstance(description, str) and description else {}
    return {"name": flat_name(tool.name, tool.group), **told, "parameters": schema}


def _told(tool: Body) -> str:
    """What a tool that takes free text says of itself, its grammar with it."""
    told = tool.get("description")
    parts = [told if isinstance(told, str) else ""]
    form = tool.get("format")
    if isinstance(form, Mapping) and form.get("type") == "grammar":
        parts.append(f"Its input follows this {form.get('syntax')} grammar:")
        parts.append(str(form.get("definition")))
    return "\n".join(filter(None, parts))


# Which to call


def read_choice(body: Body, tools: ClientTools) -> ToolChoice:
    """Which tools are to be called, or may be."""
    asked = body.get("tool_choice")
    if asked in (None, "auto"):
        return ToolChoice()
    if asked == "none":
        return ToolChoice("none")
    if asked == "required":
        is_nothing = tools.left_out and not tools.definitions
        return ToolChoice() if is_nothing else ToolChoice("required")
    if not isinstance(asked, Mapping):
        raise invalid("tool_choice", "auto, none, required or a tool", asked)
    match asked.get("type"):
        case "function" | "custom":
            return ToolChoice("named", _flat(asked, "tool_choice"))
        case allowed_tools.KIND:
            names = [tool["name"] for tool in tools.definitions]
            types = ("function", "custom")
            return allowed_tools.allowed_tools(asked, "tool_choice", names, _flat, types)
        case _:  # a tool that is left out
            return ToolChoice()


def _flat(named: Body, where: str) -> str:
    group = named.get("namespace")
    if not isinstance(group, str | None):
        raise invalid(f"{where}.namespace", "a name", group)
    return flat_name(_name(named, where), group)


# Free text in arguments


_BEGINS: Final = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
_WHOLE: Final = re.compile(
    r"""(?: [^"\\]
      | \\ [^u]
      | \\u [dD][89abAB][0-9a-fA-F]{2} \\u [0-9a-fA-F]{4}
      | \\u (?![dD][89abAB]) [0-9a-fA-F]{4}
    )*""",
    re.VERBOSE,
)
"""Characters of a JSON text that are there whole."""


class FreeText:
    """The free text of a call while its arguments are written."""

    def __init__(self) -> None:
        self.text = ""
        self._rest = ""
        self._is_inside = False

    def feed(self, piece: str) -> str:
        """What `piece` of the arguments adds to the text."""
        self._rest += piece
        if not self._is_inside:
            begins = _BEGINS.match(self._rest)
            if begins is None:
                return ""
            self._is_inside, self._rest = True, self._rest[begins.end() :]
        match = _WHOLE.match(self._rest)
        assert match is not None
        self._rest = self._rest[match.end() :]
        try:
            added = str(parse_json(f'"{match[0]}"'))
        except DocumentError:
            return ""
        self.text += added
        return added

    def finish(self, arguments: str) -> str:
        """What the text still lacks, now that all arguments are there."""
        text = _text_in(arguments)
        added = text.removeprefix(self.text) if text.startswith(self.text) else ""
        self.text = text
        return added


def _text_in(arguments: str) -> str:
    """The free text in the arguments of a call; those themselves where there is none."""
    try:
        found = parse_object(arguments).get(INPUT)
    except DocumentError:
        return arguments
    return found if isinstance(found, str) else arguments
