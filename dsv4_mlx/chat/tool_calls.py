"""One tool call as a model wrote it, read leniently.

Small and quantized models leave out attributes, quote differently or wrap their arguments. What
can be understood becomes a call whose arguments are a valid JSON object; the rest is no call.
"""

import json
import re
from collections.abc import Sequence

from dsv4_mlx.chat.messages import ToolCall, to_json
from dsv4_mlx.chat.strict import write_arguments

_VALUE = r"""(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
# First the release's own form, in which a name may hold anything, then the lenient one.
_HEAD = re.compile(r'\s*name="(.*?)">\n\Z', re.DOTALL)
_LOOSE_HEAD = re.compile(rf"\s*name\s*=\s*{_VALUE}\s*>?", re.DOTALL)
_PARAMETER = re.compile(r' name="(.*?)" string="(true|false)">(.*)\Z', re.DOTALL)
_LOOSE_PARAMETER = re.compile(
    rf"""\s*name\s*=\s*{_VALUE}\s*(?:string\s*=\s*["']?(true|false)["']?\s*)?>(.*)\Z""",
    re.DOTALL | re.IGNORECASE,
)


def lenient_call(
    head: str, parameters: Sequence[str], raw: str, *, unwrap: bool = True
) -> ToolCall | None:
    """The call, or None if it has no name or its body makes no sense.

    `head` is the text from `invoke` to the first parameter, `parameters` what stands between
    `<parameter` and its closing. `unwrap` takes a lone object named `arguments` as the arguments.
    """
    name, body = _name(head)
    read = [_parameter(text) for text in parameters]
    arguments = {key: value for pair in read if pair for key, value in [pair]}
    if not name or None in read:
        return None
    if not parameters and body.strip():
        return ToolCall(name, body.strip(), raw=raw) if _is_object(body) else None
    wrapped = arguments.get("arguments", "") if unwrap and len(arguments) == 1 else ""
    written = wrapped.strip() if _is_object(wrapped) else write_arguments(arguments)
    return ToolCall(name, written, raw=raw)


def _name(head: str) -> tuple[str, str]:
    """The name and what follows it; no name is empty."""
    match = _HEAD.match(head)
    if match:
        return match[1], ""
    match = _LOOSE_HEAD.match(head)
    return (_first(match.groups()), head[match.end() :]) if match else ("", head)


def _parameter(text: str) -> tuple[str, str] | None:
    """A parameter's name and its value as JSON text. What is no JSON is a string."""
    match = _PARAMETER.match(text)
    if match:
        key, kind, value = match.groups()
    else:
        match = _LOOSE_PARAMETER.match(text)
        if match is None:
            return None
        *names, kind, value = match.groups()
        key = _first(names)
    is_string = kind is not None and kind.lower() == "true"
    return key, to_json(value) if is_string or not _is_json(value) else value


def _first(groups: Sequence[str | None]) -> str:
    return next((group for group in groups if group is not None), "")


def _is_object(text: str) -> bool:
    return text.lstrip().startswith("{") and _is_json(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    """NaN and Infinity, which Python reads and other JSON parsers do not."""
    raise ValueError(constant)
