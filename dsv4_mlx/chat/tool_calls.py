"""One tool call as a model wrote it, read leniently.

Small and quantized models leave out attributes, quote differently or wrap their arguments. What
can be understood becomes a call whose arguments are a valid JSON object; the rest is no call.

A value may be read as a string or as JSON. The attribute `string` says which, as in the release,
unless the schema of the tool allows only another reading: a parameter that is declared a string
stays one although it looks like JSON, and one that is declared a number is a number although the
model called it a string. Without a schema the attribute alone decides, and without an attribute
whatever is JSON is JSON.
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
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}
Written = tuple[str, str | None, str]
"""A parameter as the model wrote it: name, `true`, `false` or nothing for `string`, and text."""


def lenient_call(
    head: str, parameters: Sequence[str], raw: str, schemas: ToolSchemas
) -> ToolCall | None:
    """The call, or None if it has no name or its body makes no sense.

    `head` is the text from `invoke` to the first parameter, `parameters` what stands between
    `<parameter` and its closing. Of a tool in `schemas` without a parameter `arguments`, a lone
    object of that name is taken as all the arguments.
    """
    name, body = _name(head)
    written = [found for text in parameters if (found := _parameter(text))]
    if not name or len(written) < len(parameters):
        return None
    schema = schemas.of(name)
    if not parameters and body.strip():
        values = _object(body)
        return None if values is None else ToolCall(name, _fitted(body, values, schema), raw=raw)
    if schema and len(written) == 1 and written[0][0] == "arguments":
        values = None if schema.names("arguments") else _object(written[0][2])
        if values is not None:
            return ToolCall(name, _fitted(written[0][2], values, schema), raw=raw)
    read = {key: _read(text, kind, schema and schema.property(key)) for key, kind, text in written}
    return ToolCall(name, write_arguments(read), raw=raw)


def _name(head: str) -> tuple[str, str]:
    """The name and what follows it; no name is empty."""
    match = _HEAD.match(head)
    if match:
        return match[1], ""
    match = _LOOSE_HEAD.match(head)
    return (_first(match.groups()), head[match.end() :]) if match else ("", head)


def _parameter(text: str) -> Written | None:
    match = _PARAMETER.match(text)
    if match:
        return match[1], match[2], match[3]
    match = _LOOSE_PARAMETER.match(text)
    if match is None:
        return None
    *names, kind, value = match.groups()
    return _first(names), kind and kind.lower(), value


def _first(groups: Sequence[str | None]) -> str:
    return next((group for group in groups if group is not None), "")


# What a value is


def _read(text: str, kind: str | None, schema: Schema | None) -> str:
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
        return parse_json(_read(value, "true", schema))
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
