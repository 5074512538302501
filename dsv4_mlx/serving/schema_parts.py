"""The parts of a JSON schema, of which each says something about a value."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords under which schemas have names of their own."""
DATA: Final = ("enum", "const", "default", "example", "examples", "required")
"""Keywords under which no schemas are."""


def parts_of(content: object) -> Iterator[tuple[Mapping[str, Any], int]]:
    """The parts of a schema, or of a list of schemas, and how deep each lies in it."""
    waiting = [(content, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, Mapping):
            yield part, depth
            for key, one in part.items():
                if key in NAMED and isinstance(one, Mapping):
                    waiting += ((named, depth + 2) for named in one.values())
                elif key not in DATA:
                    waiting.append((one, depth + 1))
        elif isinstance(part, list):
            waiting += ((one, depth + 1) for one in part)
