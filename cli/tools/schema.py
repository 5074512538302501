"""Arguments of a call against the JSON schema of its tool, with one sentence about what is wrong.

The common keywords are checked. Others are left to the tool: an MCP server checks its own.
"""

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from cli.tools.tool import ToolError
from dsv4_mlx.chat.schema import TYPES, is_of_type
from dsv4_mlx.files.documents import DocumentError, parse_object

_DEEPEST = 32
_ARTICLES = {
    "object": "an object",
    "array": "an array",
    "integer": "a whole number",
    "null": "null",
}
_LIMITS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("minimum", operator.ge, "at least"),
    ("maximum", operator.le, "at most"),
    ("exclusiveMinimum", operator.gt, "above"),
    ("exclusiveMaximum", operator.lt, "below"),
)


def read_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in `text`; ToolError if it is no JSON object that fits `schema`."""
    try:
        arguments = parse_object(text or "{}")
    except DocumentError as error:
        raise ToolError(f"The arguments must be a JSON object: the text {error}.") from error
    check(arguments, schema)
    return arguments


def check(value: Any, schema: Mapping[str, Any], place: str = "", depth: int = 0) -> None:
    """ToolError naming the first place in `value` that does not fit."""
    if depth > _DEEPEST or not isinstance(schema, Mapping):
        return
    name = f"The argument {place}" if place else "The argument list"
    _check_type(value, schema.get("type"), name)
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        listed = ", ".join(_shown(choice) for choice in choices)
        raise ToolError(f"{name} must be one of {listed}, got {_shown(value)}.")
    if isinstance(value, dict):
        _check_object(value, schema, place, depth)
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            check(entry, schema.get("items", {}), f"{place}[{number}]", depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_limits(value, schema, name)
    elif isinstance(value, str):
        _check_length(value, schema, name)


def _check_type(value: Any, wanted: Any, name: str) -> None:
    kinds = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(kinds, list) or not all(kind in TYPES for kind in kinds):
        return
    if not any(is_of_type(value, kind) for kind in kinds):
        listed = " or ".join(_ARTICLES.get(kind, f"a {kind}") for kind in kinds)
        raise ToolError(f"{name} must be {listed}, got {_shown(value)}.")


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], place: str, depth: int) -> None:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    required = schema.get("required")
    for key in required if isinstance(required, list) else []:
        if key not in value:
            raise ToolError(f"The argument {_under(place, key)} is missing.")
    for key, entry in value.items():
        if key in properties:
            check(entry, properties[key], _under(place, key), depth + 1)
        elif schema.get("additionalProperties") is False:
            known = ", ".join(properties) or "none"
            raise ToolError(f"There is no argument {_under(place, key)}; there are: {known}.")


def _check_limits(value: float, schema: Mapping[str, Any], name: str) -> None:
    for keyword, holds, words in _LIMITS:
        limit = schema.get(keyword)
        if isinstance(limit, int | float) and not holds(value, limit):
            raise ToolError(f"{name} must be {words} {limit}, got {value}.")


def _check_length(value: str, schema: Mapping[str, Any], name: str) -> None:
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    if isinstance(longest, int) and len(value) > longest:
        raise ToolError(f"{name} may have {longest:,} characters and has {len(value):,}.")
    if isinstance(shortest, int) and len(value) < shortest:
        raise ToolError(f"{name} must have at least {shortest:,} characters, got {_shown(value)}.")


def _under(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
