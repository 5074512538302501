"""Values of the configuration file: what each kind must look like, and what it becomes.

A reader takes a value as TOML gives it and raises ValueError, TypeError or OverflowError for one
that does not fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4_mlx.engine.sampling import Range, bounded
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.files.paths import user_path
from dsv4_mlx.files.sizes import bytes_of

ON = "true or false"
"""What a switch takes, for error sentences."""


@dataclass(frozen=True)
class Setting:
    """One line of the file."""

    key: str
    default: str
    """As TOML."""
    help: str
    expected: str
    read: Callable[[Any], Any]
    """The value as `Config` keeps it; ValueError or TypeError for one that does not fit."""
    field: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", self.field or self.key)

    def value(self, found: object, path: Path) -> Any:
        """What `found` says in the file `path`; UsageError, with the key, where it does not fit."""
        try:
            return self.read(found)
        except UsageError as error:
            raise UsageError(f"{path}: {self.key}: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            expected = bounded(self.expected, found)
            raise UsageError(
                f"{path}: {self.key} must be {expected}, found {shown(found)}."
            ) from error


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def text(value: object) -> str:
    """A text as it is."""
    _require(isinstance(value, str))
    return str(value)


def switch(value: object) -> bool:
    """true or false."""
    _require(isinstance(value, bool))
    return bool(value)


def number(value: Any) -> float:
    """A finite number."""
    _require(isinstance(value, int | float) and not isinstance(value, bool))
    _require(math.isfinite(value))
    return float(value)


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of these words."""

    def read(value: object) -> str:
        _require(isinstance(value, str) and value in choices)
        return str(value)

    return read


def none_for(word: str, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None for `word`, any other value as `read` takes it."""
    return lambda value: None if value == word else read(value)


def at_least(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[Any], Any]:
    """A number from `least` on, or above it, up to `most`."""

    def read(value: Any) -> float:
        found = number(value)
        _require((found > least if above else found >= least) and found <= most)
        return found

    return read


def whole(least: int, most: int = (1 << 63) - 1) -> Callable[[Any], int]:
    """A whole number from `least` to `most`, which 63 bits hold."""

    def read(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool))
        _require(least <= value <= most)
        return int(value)

    return read


def within(range_: Range) -> Callable[[Any], Any]:
    """A number of a range of sampling."""

    def read(value: Any) -> float:
        _require(value in range_)
        return value if range_.whole else float(value)

    return read


def size(value: Any) -> int:
    """Bytes of a text like `20 GB`, `20GB` or `1.5 gib`."""
    return bytes_of(text(value))


def stop_texts(value: object) -> tuple[str, ...]:
    """Texts, none of them empty."""
    found = texts(value)
    _require("" not in found)
    return found


def folder(value: object) -> Path | None:
    """A folder's path; None for an empty text."""
    return user_path(text(value)) if value != "" else None


def program(value: object) -> str:
    """A program's name, looked for as a shell does, or its path."""
    name = text(value)
    return str(user_path(name)) if name.startswith("~") else name


def texts(value: object) -> tuple[str, ...]:
    """A list of texts."""
    _require(isinstance(value, list))
    assert isinstance(value, list)
    return tuple(text(entry) for entry in value)


def texts_by_name(value: object) -> tuple[tuple[str, str], ...]:
    """A table of texts."""
    _require(isinstance(value, dict))
    assert isinstance(value, dict)
    return tuple((text(name), text(entry)) for name, entry in value.items())
