"""The values of a document: each asked for by key, of the kind that is meant, or one sentence."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from dsv4_mlx.errors import CheckpointError, Dsv4Error
from dsv4_mlx.files.documents import as_double, shown


class Fields:
    """The values of one document by key, each checked when it is asked for; null is absent.

    Errors name `place`, the key, what was expected and the `cure`.
    """

    def __init__(
        self,
        keys: Mapping[str, Any],
        place: object,
        *,
        cure: str = "correct it",
        error: type[Dsv4Error] = CheckpointError,
    ) -> None:
        self.keys, self.place, self.cure, self.error = keys, place, cure, error

    def number(
        self, name: str, default: float, *, least: float = -math.inf, most: float = math.inf
    ) -> float:
        """A real number from `least` to `most`."""
        value = self.keys.get(name)
        if value is None:
            return default
        number = as_double(value)
        if number is None or not least <= number <= most:
            self.refuse(name, "a number" + _bounds(least, most))
        return number

    def whole(self, name: str, default: int, *, least: int = 0, most: int = 2**53) -> int:
        """A whole number from `least` to `most`; 3.0 is one too."""
        value = self.keys.get(name)
        if value is None:
            return default
        number = as_whole(value)
        if number is None or not least <= number <= most:
            self.refuse(name, f"a whole number from {least} to {most}")
        return number

    def ids(self, name: str) -> tuple[int, ...]:
        """The token ids of one id or a list of them, each once; none is empty."""
        value = self.keys.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        found = [as_whole(one) for one in values]
        if any(one is None or not 0 <= one < 2**31 for one in found):
            self.refuse(name, "a token id or a list of them, each from 0 on")
        return tuple(dict.fromkeys(one for one in found if one is not None))

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.keys.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raise the error about the value of `name`."""
        found = shown(self.keys.get(name))
        raise self.error(f"{self.place}: {name} is {found}, expected {expected}; {self.cure}.")


def without_nulls(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that say something."""
    return {key: value for key, value in keys.items() if value is not None}


def as_whole(value: object) -> int | None:
    """A whole number, also one written as 3.0; None for anything else."""
    number = as_double(value)
    if number is None or not number.is_integer():
        return None
    return value if isinstance(value, int) else int(number)


def _bounds(least: float, most: float) -> str:
    if math.isinf(most):
        return "" if math.isinf(least) else f" from {least:g} on"
    return f" up to {most:g}" if math.isinf(least) else f" from {least:g} to {most:g}"
