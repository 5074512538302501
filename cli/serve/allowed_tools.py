"""The choice of OpenAI's dialects by which an answer may call, or has to, only some of its tools.

The tools that may not be called stay in the prompt: OpenAI has this choice so that a client can
change it from turn to turn and what was read before holds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cli.serve.reading import Body, invalid
from dsv4_mlx.serving.request import ToolChoice

KIND: Final = "allowed_tools"
"""The type of this choice."""


def allowed_tools(
    asked: Body,
    where: str,
    known: Sequence[str],
    name_of: Callable[[Body, str], str],
    types: Sequence[str] = ("function",),
) -> ToolChoice:
    """The choice that the fields `mode` and `tools` of `asked` make among the tools `known`.

    `name_of` reads the name of a tool at a place. Tools of other `types` are left out, and where
    none of the others is allowed there is nothing to call.
    """
    mode, listed = asked.get("mode", "auto"), asked.get("tools")
    if mode not in ("auto", "required"):
        raise invalid(f"{where}.mode", "auto or required", mode)
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise invalid(f"{where}.tools", "a list of tools", listed)
    names = [
        name_of(one, f"{where}.tools[{place}]")
        for place, one in enumerate(listed)
        if one.get("type", "function") in types
    ]
    for name in names:
        if name not in known:
            raise invalid(f"{where}.tools", f"some of {', '.join(known) or '(none)'}", name)
    allowed = tuple(name for name in known if name in names)
    return ToolChoice("required" if mode == "required" and allowed else "auto", allowed=allowed)
