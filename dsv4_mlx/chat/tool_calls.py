"""One tool call as a model wrote it, read leniently.

Small and quantized models leave out attributes, quote differently or wrap their arguments. What
can be understood becomes a call whose arguments are a valid JSON object; the rest is no call.

A value may be read as a string or as JSON. The attribute `string` says which, as in the release,
unless the schema of the tool allows only another reading: a parameter that is declared a string
stays one although it looks like JSON, and one that is declared a number is a number although the
model called it a string. Without a schema the attribute alone decides, and without an attribute
whatever is JSON is JSON. The schema also tells a wrapper around all arguments from a parameter of
its name.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from dsv4_mlx.chat.messages import ToolCall, to_json
from dsv4_mlx.chat.schema import Schema, ToolSchemas
from dsv4_mlx.chat.strict import write_arguments
from dsv4_mlx.files.documents import DocumentError, parse_json

_VALUE = r"""(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))"""
# First the release's own form, in which a name may hold anything, then the lenient one.
_HEAD = re.compile(r'\s*name="(.*?)">\n\Z', re.DOTALL)
_LOOSE_HEAD = re.compile(rf"\s*name\s*=\s*{_VALUE}\s*>?", re.DOTALL)
_PARAMETER = re.compile(r' name="(.*?)" string="(true|false)">(.*)\Z', re.DOTALL)
_LOOSE_PARAMETER = re.compile(
    rf"""\s*name\s*=\s*{_VALUE}\s*(?:string\s*=\s*["']?(true|false)["']?\s*)?>(.*)\Z""",
    re.DOTALL | re.IGNORECASE,
)
_WRAPPERS = ("arguments", "input")
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
Written = tuple[str, str | None, str]
"""A parameter as the model wrote it: name, `true`, `false` or nothing for `string`, and text."""


def lenient_call(
    head: str, parameters: Sequence[str], raw: str, schemas: ToolSchemas
) -> ToolCall | None:
    """The call, or None if it has no name or its body makes no sense.

    `head` is the text from `invoke` to the first parameter, `parameters` what stands between
    `<parameter` and its closing.
    """
    name, body = read_name(head)
    written = [found for text in parameters if (found := read_parameter(text))]
    if not name or len(written) < len(parameters):
        return None
    schema = schemas.of(name)
    if not parameters and body.strip():
        values = _object(body)
        return None if values is None else ToolCall(name, _fitted(body, values, schema), raw=raw)
    if len(written) == 1 and is_wrapper(written[0][0], written[0][2], schema):
        return ToolCall(name, unwrapped(written[0][2], schema), raw=raw)
    read = {
        key: read_value(text, kind, schema and schema.property(key)) for key, kind, text in written
    }
    return ToolCall(name, write_arguments(read), raw=raw)


def may_wrap(name: str, schema: Schema | None) -> bool:
    """Whether a lone parameter of this name may hold all the arguments: one that some models write
    around them, and that the tool does not have."""
    return schema is not None and name in _WRAPPERS and not schema.names(name)


def is_wrapper(name: str, text: str, schema: Schema | None) -> bool:
    """Whether the lone parameter `name` is a wrapper: an object of what the tool does have."""
    if schema is None or not may_wrap(name, schema):
        return False
    values = _object(text)
    return values is not None and all(schema.property(key) is not None for key in values)


def unwrapped(text: str, schema: Schema | None) -> str:
    """All the arguments, as JSON text, of which `text` is the object that a wrapper holds."""
    return _fitted(text, _object(text) or {}, schema)


def read_name(head: str) -> tuple[str, str]:
    """The name and what follows it; no name is empty."""
    match = _HEAD.match(head)
    if match:
        return match[1], ""
    match = _LOOSE_HEAD.match(head)
    return (_first(match.groups()), head[match.end() :]) if match else ("", head)


def read_parameter(text: str) -> Written | None:
    """A parameter from the text between `<parameter` and its closing; None if it has no name."""
    match = _PARAMETER.match(text)
    if match:
        return match[1], match[2], match[3]
    match = _LOOSE_PARAMETER.match(text)
    if match is None:
        return None
    *names, kind, value = match.groups()
    return _first(names), kind and kind.lower(), value


def string_begins(text: str) -> tuple[str, str] | None:
    """Name and value so far of a parameter that the release's form calls a string.

    None while it is not sure that this is one, whatever follows.
    """
    match = _PARAMETER.match(text)
    return (match[1], match[3]) if match and match[2] == "true" else None


def _first(groups: Sequence[str | None]) -> str:
    return next((group for group in groups if group is not None), "")


# What a value is


def read_value(text: str, kind: str | None, schema: Schema | None) -> str:
    """The value of one parameter as JSON text."""
    if schema is not None:
        for reading in _readings(text, kind):
            if schema.allows(parse_json(reading)):
                return reading
    return to_json(text) if kind == "true" or not _is_json(text) else text


def _readings(text: str, kind: str | None) -> Iterator[str]:
    """Everything that `text` may mean, as JSON text; first what the attribute says."""
    value = parse_json(text) if kind != "true" and _is_json(text) else None
    # Quotes without an attribute belong to the string: the release writes strings bare.
    if kind == "true" or (kind is None and isinstance(value, str)):
        yield to_json(text)
    if _is_json(text):
        yield text
    yield to_json(text)
    if _is_json(text) and isinstance(value := parse_json(text), str) and _is_json(value):
        yield value
    if (word := text.strip().lower()) in _WORDS:
        yield _WORDS[word]
    yield to_json(text.strip())


def _fitted(text: str, values: dict[str, Any], schema: Schema | None) -> str:
    """The JSON object `text`, whose values are `values`, each as the schema of its name has it."""
    fitted = {
        key: _refitted(value, schema and schema.property(key)) for key, value in values.items()
    }
    is_same = all(fitted[key] is value for key, value in values.items())
    return text.strip() if is_same else _dumped(fitted) or text.strip()


def _refitted(value: object, schema: Schema | None) -> object:
    if schema is None or schema.allows(value):
        return value
    if isinstance(value, str):
        return parse_json(read_value(value, "true", schema))
    written = _dumped(value)
    return written if written is not None and schema.allows(written) else value


def _dumped(value: object) -> str | None:
    """JSON; None for a number that no double holds, or for too deep a value."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _object(text: str) -> dict[str, Any] | None:
    found = parse_json(text) if text.lstrip().startswith("{") and _is_json(text) else None
    return found if isinstance(found, dict) else None


def _is_json(text: str) -> bool:
    """Whether `text` is JSON as it stands; at the beginning of a file a mark may come before it."""
    if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        return False
    try:
        parse_json(text)
    except DocumentError:
        return False
    return True
