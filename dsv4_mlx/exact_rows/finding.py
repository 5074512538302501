"""What a self-test finds, and the decision: a pure function of comparisons and times."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, Protocol

import mlx.core as mx

from dsv4_mlx.device.row_finding import MOST_ROWS, RowFinding

ALLOWED: Final = 0.03
"""How much longer than MLX's the products that keep bits may take for plain decoding."""
ROUNDS: Final = 8


@dataclass(frozen=True)
class RowsAlike:
    """Rows up to which calls have the bits of single rows, and the part that ends there."""

    rows: int
    part: str = ""


@dataclass(frozen=True)
class ProductTimes:
    """Seconds of the products of one row: ours and MLX's, measured in turn, and of no product."""

    ours: Sequence[float]
    mlx: Sequence[float]
    nothing: Sequence[float]

    @property
    def slower(self) -> float:
        """How much longer ours take, by medians; what a call of nothing takes is in neither."""
        ours, theirs, nothing = (median(one) for one in (self.ours, self.mlx, self.nothing))
        return (ours - theirs) / (theirs - nothing if theirs > nothing else max(theirs, 1e-9))


class RowTests(Protocol):
    """What a self-test looks at, cheap things first."""

    @property
    def weight_bytes(self) -> int:
        """What was read of weights so far."""
        ...

    def alike(self) -> RowsAlike:
        """Every kernel whose numbers could depend on its neighbours, at the model's shapes."""
        ...

    def times(self) -> ProductTimes:
        """The products of one row."""
        ...

    def pass_is_exact(self, rows: int) -> bool:
        """Whether one pass of the model has the bits of as many steps, in all that it leaves."""
        ...

    def round_is_exact(self, rows: int) -> bool:
        """The same of a pass of a token of each of so many timelines."""
        ...


def find(tests: RowTests) -> RowFinding:
    """The decision: nothing is tried after what already rules several rows out."""
    alike = tests.alike()
    if alike.rows < 2:
        reason = f"several rows of one call have not the bits of single ones here ({alike.part})"
        return RowFinding(1, reason, None, tests.weight_bytes)
    slower = tests.times().slower
    found = RowFinding(alike.rows, "", slower, tests.weight_bytes)
    if slower > ALLOWED:
        reason = (
            f"products that keep the bits of several rows take {slower:.0%} longer than MLX's for "
            f"one row here, and {ALLOWED:.0%} are allowed"
        )
        return replace(found, exact_rows=1, reason=reason)
    if not tests.pass_is_exact(alike.rows):
        reason = f"a pass of {alike.rows} rows has not the bits of single steps here"
        return replace(found, exact_rows=1, reason=reason)
    return replace(found, round_rows=alike.rows) if tests.round_is_exact(alike.rows) else found


def rows_alike(run: Callable[[int, int], mx.array], most: int = MOST_ROWS) -> int:
    """Rows up to which `run(0, n)` has the bits of `run(r, 1)` for each of them.

    `run(first, count)` gives [count, ...] float32.
    """
    alone = [run(row, 1) for row in range(most)]
    same = [has_same_bits(run(0, n), mx.concatenate(alone[:n])) for n in range(2, most + 1)]
    mx.eval(same)
    return next((n for n, one in enumerate(same, 1) if not one.item()), most)


def has_same_bits(found: mx.array, expected: mx.array) -> mx.array:
    """Whether two arrays of one dtype are equal bit for bit, NaN included, unevaluated."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return mx.array(False)
    words = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}[found.dtype.size]
    return (mx.contiguous(found).view(words) == mx.contiguous(expected).view(words)).all()


def lowest(found: Mapping[str, int]) -> RowsAlike:
    """What all parts allow, by their names, and the first that allows no more."""
    if not found:
        return RowsAlike(MOST_ROWS)
    part = min(found, key=lambda name: found[name])
    return RowsAlike(found[part], part)


def measured(
    ours: Callable[[], Sequence[mx.array]],
    mlx: Callable[[], Sequence[mx.array]],
    nothing: Callable[[], Sequence[mx.array]],
    clock: Callable[[], float],
    rounds: int = ROUNDS,
) -> ProductTimes:
    """Times of evaluating what the calls give, in turn and in turned order, the first uncounted.

    What Python does to make a call is not among them, as a compiled step does without. `clock`
    gives seconds.
    """
    calls = (ours, mlx, nothing)
    times: tuple[list[float], ...] = ([], [], [])
    for number in range(-1, rounds):
        for place in range(3) if number % 2 else reversed(range(3)):
            results = calls[place]()
            began = clock()
            mx.eval(results)
            seconds = clock() - began
            if number >= 0:
                times[place].append(seconds)
    return ProductTimes(*times)
