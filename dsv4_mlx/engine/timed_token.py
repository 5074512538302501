"""How long a token of a loaded model takes: weights that did not stay in memory show there."""

from collections.abc import Callable
from time import perf_counter

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.sizing.residency import residency_warning
from dsv4_mlx.sizing.streamed import bandwidth_of

_TOKENS = 4
_FIRST = 2
"""Tokens that compile kernels and read from files what is read once; they are not timed."""


def token_seconds(
    engine: Engine, token: int = 0, clock: Callable[[], float] = perf_counter
) -> float:
    """Seconds of a decoded token that follows a prompt of `token` and a few others.

    On the model's thread, with the errors of a session; for models whose replies use no drafts.
    """
    session = engine.session()
    session.sync([token, token])
    ends = [clock() for _ in session.stream(max_tokens=_TOKENS, stop_ids=())]
    return (ends[-1] - ends[_FIRST - 1]) / (_TOKENS - _FIRST)


def residency_note(
    engine: Engine,
    needed: int,
    chip: str,
    macs: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> str:
    """A sentence where a token takes so long that weights cannot be in memory; else "".

    `needed` are the bytes that the model takes on each of so many Macs with `chip`. Only Metal's
    memory is taken away from a program: on other backends no token is decoded.
    """
    if engine.backend != "metal":
        return ""
    read = Costs(engine.config).bytes_per_token()
    seconds = token_seconds(engine, clock=clock)
    return residency_warning(seconds, read, needed, bandwidth_of(chip), macs)
