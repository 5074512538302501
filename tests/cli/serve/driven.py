"""Dialects driven without a network: a body in, its frames and its whole answer out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from cli.serve.dialect import DialectContext, Frame
from cli.serve.faults import OF_REFUSALS, Fault
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done
from dsv4_mlx.chat.settings import ChatSettings, Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.scripted.engine import NANO, scripted_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply
from dsv4_mlx.serving.events import Collected, Refused
from dsv4_mlx.serving.service import Service

Body = dict[str, Any]


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


def script(*replies: str | ScriptedReply) -> Script:
    """Replies one after the other."""
    read = (one if isinstance(one, ScriptedReply) else ScriptedReply(one) for one in replies)
    return Script(tuple((one,) for one in read), chunk=32)


_numbers = count(1)


def context(**changes: Any) -> DialectContext:
    """What holds for a request beside its body."""
    known = DialectContext(
        model="nano",
        names=("nano", "claude-here"),
        checkpoint=ChatSettings("2026-07-31", 1 << 20),
        defaults=AnswerSettings(Thinking("thinking", "low"), loops="off"),
        token_bytes=tokenizer().token_bytes,
        new_id=lambda prefix: f"{prefix}{next(_numbers):08x}",
        now=lambda: 1_800_000_000,
        owner="somebody",
    )
    return replace(known, **changes)


@dataclass(frozen=True)
class Answered:
    """What a request gave."""

    events: Sequence[Mapping[str, Any]]
    """The data of the frames, each as the object that it is."""
    whole: Mapping[str, Any]
    done: Done | None
    """The last event, unless it was refused."""

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


def data(frames: Sequence[Frame]) -> list[Mapping[str, Any]]:
    """The objects in frames, each of the type that its frame is named."""
    read = [json.loads(frame.data) for frame in frames]
    assert [one["type"] for one in read] == [frame.event for frame in frames]
    return read


@dataclass
class Server:
    """A scripted model behind a dialect."""

    dialect: Any
    script: Script
    folder: Path | None = None
    context: DialectContext = field(default_factory=context)

    def __post_init__(self) -> None:
        self.service = Service(
            scripted_engine(self.script, tokenizer()),
            tokenizer(),
            self.script.effort_table,
            folder=self.folder,
            disk_bytes=1 << 30,
            clock=lambda: 0.0,
        )

    def ask(self, body: Body) -> Answered:
        """What a client gets for `body`."""
        asked = self.dialect.read(body, self.context)
        frames = [*asked.writer.begin()]
        outlet = Collected()
        self.service.serve(asked.request, outlet)
        while self.service.scheduler.step():
            pass
        for number, event in outlet.events:
            frames += asked.writer.event(number, event)
        last = outlet.events[-1][1]
        if isinstance(last, Refused):
            fault = Fault(OF_REFUSALS[last.kind], last.sentence)
            return Answered(data([*frames, *asked.writer.failed(fault)]), {}, None)
        assert isinstance(last, Done)
        return Answered(data([*frames, *asked.writer.end()]), asked.writer.whole(), last)

    def prompt(self, body: Body) -> str:
        """The prompt of `body`, in the letters of its tokens."""
        asked = self.dialect.read(body, self.context)
        written = self.service.prompts.write(asked.request)
        return tokenizer().decode(list(written.tokens))
