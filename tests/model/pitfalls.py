"""Known mistakes of other ports, planted into our code for the time of one check.

A `Pitfalls` collects checks by their row in the table of known pitfalls (docs/sources.md), each
with the mistakes it must notice. A check builds everything it uses itself, so that a mistake that
was planted before it is in effect; it passes on our code and raises AssertionError under every one
of its mistakes.
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from metal_kernels.registry import kernels

Check = Callable[[], None]
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclasses.dataclass(frozen=True)
class Pitfall:
    """One row: the check, and the mistakes that it must notice."""

    row: int
    check: Check
    mistakes: tuple[Plant, ...]


class Pitfalls:
    """The checks of one test module."""

    def __init__(self) -> None:
        self.found: list[Pitfall] = []

    def row(self, number: int, *mistakes: Plant) -> Callable[[Check], Check]:
        """Enter the decorated check under its row; at least one mistake proves it."""
        assert mistakes

        def enter(check: Check) -> Check:
            self.found.append(Pitfall(number, check, mistakes))
            return check

        return enter

    def checks(self) -> list[Any]:
        """Parameters of a test that runs every check on our code."""
        return [pytest.param(p.check, id=_id(p)) for p in self.found]

    def planted(self) -> list[Any]:
        """Parameters of a test that runs every check under every mistake."""
        return [
            pytest.param(p.check, mistake, id=f"{_id(p)}-{mistake.__name__}")
            for p in self.found
            for mistake in p.mistakes
        ]


def _id(pitfall: Pitfall) -> str:
    return f"{pitfall.row}-{pitfall.check.__name__}"


@contextmanager
def planted(mistake: Plant) -> Iterator[None]:
    """Our code with one mistake in it."""
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        yield


def expect_notice(check: Check, mistake: Plant) -> None:
    """The check fails by an assertion of its own while the mistake is in place."""
    with planted(mistake), pytest.raises(AssertionError):
        check()


def replace_op(
    patch: pytest.MonkeyPatch, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Models built from now on run `make(reference)` as this kernel."""
    kernel = kernels()[name]
    wrong = dataclasses.replace(kernel, reference=make(kernel.reference))
    patch.setitem(kernels(), name, wrong)


def wrap(
    patch: pytest.MonkeyPatch, owner: Any, name: str, make: Callable[[Any], Callable[..., Any]]
) -> None:
    """Replace the attribute `name` of a class or module by `make(original)`."""
    patch.setattr(owner, name, make(getattr(owner, name)))
