"""Schemas of which our own grammar leaves something out and the engine of grammars nothing."""

import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any


def one(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    """An object with the one property `v`."""
    return {"type": "object", "properties": {"v": schema}, "required": ["v"], **options}


def number(**keywords: Any) -> dict[str, Any]:
    return one({"type": "number", **keywords})


def string(**keywords: Any) -> dict[str, Any]:
    return one({"type": "string", **keywords})


def mapping(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def is_address(value: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(value))
    except ValueError:
        return False


DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DURATION = re.compile(
    r"P(\d+W|(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)?(T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S))?)"
)
TWO = {"a": {"type": "integer"}, "b": {"type": "null"}}
PATTERNS = {"^x-": {"type": "integer", "multipleOf": 2}, "^y": {"type": "boolean"}}
CENT = Decimal("0.01")
SEVENS = one({"type": "integer", "multipleOf": 7})
EVEN = {"type": "integer", "multipleOf": 2}
TREE = {"properties": {"v": EVEN, "c": {"items": {"$ref": "#/$defs/t"}, "maxItems": 1}}}


def fits_patterns(value: dict[str, Any]) -> bool:
    return all(
        (name.startswith("x-") and type(value[name]) is int and value[name] % 2 == 0)
        or (name.startswith("y") and type(value[name]) is bool)
        for name in value
    )


def is_tree(value: Any) -> bool:
    return (
        value.keys() <= {"v", "c"}
        and value.get("v", 0) % 2 == 0
        and len(value.get("c", [])) <= 1
        and all(map(is_tree, value.get("c", [])))
    )


# What our own grammar leaves out, and whether a value is one that the schema allows.
HELD: dict[str, tuple[dict[str, Any], list[str], Callable[[Any], bool]]] = {
    "multiple": (SEVENS, ["multipleOf"], lambda v: v["v"] % 7 == 0),
    "hundredths": (number(multipleOf=0.01), ["multipleOf"], lambda v: v["v"] % CENT == 0),
    "quarters": (
        number(multipleOf=0.25, minimum=-3, maximum=12),
        ["multipleOf"],
        lambda v: v["v"] % Decimal("0.25") == 0 and -3 <= v["v"] <= 12,
    ),
    "twelves": (
        one({"type": "integer", "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}),
        ["multipleOf"],
        lambda v: v["v"] % 12 == 0,
    ),
    "bounds": (
        number(minimum=0.5, exclusiveMaximum=1.25),
        ["minimum", "exclusiveMaximum"],
        lambda v: Decimal("0.5") <= v["v"] < Decimal("1.25"),
    ),
    "patterns of names": (
        mapping(patternProperties=PATTERNS, additionalProperties=False),
        ["patternProperties", "multipleOf"],
        fits_patterns,
    ),
    "one at least": (
        mapping(properties=TWO, minProperties=1),
        ["minProperties"],
        lambda v: len(v) >= 1 and v.keys() <= {"a", "b"},
    ),
    "one at most": (
        mapping(properties=TWO, maxProperties=1),
        ["maxProperties"],
        lambda v: len(v) <= 1 and v.keys() <= {"a", "b"},
    ),
    "one to three": (
        mapping(additionalProperties={"type": "boolean"}, minProperties=1, maxProperties=3),
        ["minProperties", "maxProperties"],
        lambda v: 1 <= len(v) <= 3 and all(type(one) is bool for one in v.values()),
    ),
    "length beside a pattern": (
        string(pattern="^(ab|c)+$", minLength=3, maxLength=5),
        ["minLength", "maxLength"],
        lambda v: bool(re.fullmatch("(ab|c)+", v["v"])) and 3 <= len(v["v"]) <= 5,
    ),
    "pattern beside a format": (
        string(pattern="^[0-4]", format="ipv4", maxLength=9),
        ["format", "maxLength"],
        lambda v: v["v"][0] in "01234" and bool(ipaddress.IPv4Address(v["v"])) and len(v["v"]) < 10,
    ),
    "address": (string(format="ipv6"), ["format"], lambda v: is_address(v["v"])),
    "duration": (
        string(format="duration"),
        ["format"],
        lambda v: bool(DURATION.fullmatch(v["v"])) and v["v"][-1] not in "PT",
    ),
    "letters": (
        string(pattern=r"^\p{L}{2}$"),
        ["pattern"],
        lambda v: len(v["v"]) == 2 and v["v"].isalpha(),
    ),
    "tree": (
        {"$ref": "#/$defs/t", "$defs": {"t": TREE}},
        ["multipleOf"],
        is_tree,
    ),
    "older draft": (
        one({"type": "array", "items": EVEN}, **{"$schema": DRAFT_4}),
        ["multipleOf"],
        lambda v: all(one % 2 == 0 for one in v["v"]),
    ),
}  # fmt: skip
