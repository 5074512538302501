"""Replies in company: a token of each in turn, started together as a scheduler does it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.engine.timeline import Timeline


@dataclass
class Speaker:
    """A session that says something, what it said, and the error that ended it; nobody wants more
    than `wanted` tokens of it."""

    session: Session
    stream: Iterator[Token]
    flag: Event
    wanted: int | None = None
    said: list[Token] = field(default_factory=list)
    error: Exception | None = None
    ended: bool = False

    def take(self) -> None:
        """The next token."""
        try:
            token = next(self.stream)
        except StopIteration:
            self.ended = True
        except Exception as error:
            self.error, self.ended = error, True
        else:
            self.said.append(token)
            if len(self.said) == self.wanted:
                self.flag.set()


def speaking(session: Session, count: int, wanted: int | None = None, **how: Any) -> Speaker:
    flag = Event()
    stream = session.stream(count, cancel=flag, **{"stop_ids": (), **how})
    return Speaker(session, stream, flag, wanted)


def one_round(engine: Engine, speakers: Sequence[Speaker]) -> list[Timeline]:
    """A token of everybody who goes on; the timelines whose tokens were started together."""
    present = [one for one in speakers if not one.ended]
    ready = [one for one in present if not one.flag.is_set()]
    joining = {line: one for one in ready if (line := one.session.joining) is not None}
    lines = list(joining)[: engine.round_rows]
    for line, error in engine.start_together(lines).items() if len(lines) > 1 else ():
        joining[line].error, joining[line].ended = error, True
        joining[line].stream.close()  # type: ignore[attr-defined]
    for one in present:
        if not one.ended:
            one.take()
    return lines if len(lines) > 1 else []


def in_company(engine: Engine, speakers: Sequence[Speaker]) -> None:
    """Rounds until everybody has ended."""
    while not all(one.ended for one in speakers):
        one_round(engine, speakers)
