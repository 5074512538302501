"""A round: the next token of several replies, by one pass over the layers.

Every reply draws its own token from its own logits, and the tokens are read together, which gives
each the bits that it has alone (see `Running.round_rows`). The streams go on as ever: the next
token of each is then the one that was started here.

Where the device refuses a call that was made, as it does without memory, the states in it are lost
half-written: what it takes to return to the token before would be a copy of every ring for every
token of every reply. So each reply goes back to its last place, which is the end of its prompt as a
rule, reads what it said again and goes on by calls of its own; it keeps the tokens that it drew.
They are read as a prompt is, in chunks, which may round other last bits than single tokens do: from
there on the reply need not be the one of a device that never failed.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx

from dsv4_mlx.engine.block import StartedStep
from dsv4_mlx.engine.draws import PendingDraw
from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.timeline import Timeline

Failed = dict[Timeline, Exception]
"""Timelines whose next token failed, each back at its last complete moment."""


def start_together(running: Running, timelines: Sequence[Timeline]) -> Failed:
    """Draw and start the next token of timelines that may join, at most `round_rows` of them.

    What a draw raises is its reply's alone. Where the call of all cannot be made, or the device
    refuses it, each has one of its own, so that whoever is at fault fails alone. Take each token
    from its stream before the timeline is used otherwise.
    """
    failed: Failed = {}
    drawn: dict[Timeline, PendingDraw] = {}
    for timeline in timelines:
        try:
            drawn[timeline] = timeline.draw_ahead()
        except Exception as error:  # samplers and steers are their callers'
            failed[timeline] = error
    if len(drawn) > 1:
        try:
            following = _read(running, drawn)
        except Exception:  # of whatever kind: who is at fault says so below
            pass
        else:
            return failed | _launched(following)
    return failed | _each(drawn, Timeline.start)


def _read(running: Running, drawn: dict[Timeline, PendingDraw]) -> list[Timeline]:
    """Let the timelines read the tokens drawn by one call, unevaluated."""
    ids = [one.token.astype(mx.int32).reshape(1, 1) for one in drawn.values()]
    caches = [timeline.cache for timeline in drawn]
    logits, features = running.step_together(mx.concatenate(ids, axis=1), caches)
    for row, (timeline, drawing) in enumerate(drawn.items()):
        own = None if features is None else features[:, row : row + 1]
        timeline.started = StartedStep(drawing, logits[row], own)
    return list(drawn)


def _launched(timelines: Sequence[Timeline]) -> Failed:
    """Start on what was read; who failed."""
    started = [one.started for one in timelines if one.started is not None]
    try:
        arrays = [one.arrays() for one in timelines]
        mx.async_eval([one.following for one in started], arrays)  # type: ignore[no-untyped-call]
    except Exception:  # a kernel that is refused, memory that ran out: who fails alone says so
        del started, arrays
        return _apart(timelines)
    return {}


def _apart(timelines: Sequence[Timeline]) -> Failed:
    """Let each go on alone after a call that failed; who cannot."""
    # All of them first: a state that is lost holds memory that the others need.
    drawn = {timeline: timeline.take_back() for timeline in timelines}
    return _each(drawn, Timeline.start_apart)


def _each(
    drawn: dict[Timeline, PendingDraw], start: Callable[[Timeline, PendingDraw], None]
) -> Failed:
    """Start each by a call of its own; who failed."""
    failed: Failed = {}
    for timeline, drawing in drawn.items():
        try:
            start(timeline, drawing)
        except Exception as error:  # models and MLX raise their own
            failed[timeline] = error
    return failed
