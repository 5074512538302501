"""Rounds: which answers have their next token started together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dsv4_mlx.serving.running_job import RunningJob

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine


def start_round(engine: "Engine", answering: Sequence[RunningJob]) -> None:
    """Start the next tokens of the jobs that can share a call, by as few calls as the engine's
    `round_rows` allow; jobs whose token fails end here.

    The next `answer` of each takes its token, also where the request was cancelled meanwhile.
    """
    rows = engine.round_rows
    if rows < 2 or len(answering) < 2:
        return
    ready = [one for one in answering if not one.job.cancelled.is_set()]
    joining = {line: one for one in ready if (line := one.session.joining) is not None}
    lines = list(joining)
    for first in range(0, len(lines), rows):
        some = lines[first : first + rows]
        if len(some) > 1:
            for line, error in engine.start_together(some).items():
                joining[line].fail(error)
