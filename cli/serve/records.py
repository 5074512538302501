"""What happened to each request: for the log, for counters, and for whoever watches.

Nothing of what was asked or answered is here.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cli.safe import exact
from cli.serve.faults import STATUSES, Fault
from cli.serve.limits import RateLimit
from dsv4_mlx.chat.events import Done, Progress, ReasoningDelta, TextDelta
from dsv4_mlx.serving.events import Begun, CallBegun, LayersPassed, ServedEvent

_MOST_NAMES: Final = 8
_MOST_NAME: Final = 40
_MOST_REFUSALS: Final = 60
"""Lines in a minute, so that nobody fills a log."""
_OTHER: Final = "other"


@dataclass
class RequestRecord:
    """One request. Seconds are those of the clock of its `Records`."""

    number: int
    dialect: str
    client: str
    owner: str
    began_at: float
    state: str = "waiting"
    """`waiting`, `reading`, `answering`, then `done`, `cancelled`, or the kind of a fault."""
    prompt: int = 0
    cached: int = 0
    known: int = 0
    """Tokens of the prompt up to where it parts from all that had been read."""
    read: int = 0
    """Tokens of the prompt read by the last word about it."""
    layers: tuple[int, int] | None = None
    """Layers that its prompt passed, of all, where it passes them one by one."""
    generated: int = 0
    pieces: int = 0
    """Deltas of its answers so far, about as many as tokens were generated."""
    finish: str = ""
    first_s: float | None = None
    """From its body to the first piece of an answer."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    took_s: float = 0.0
    passed_over: tuple[str, ...] = ()
    """What of its body is not offered here."""

    @property
    def read_tokens(self) -> int:
        """Tokens of the prompt that were read: all that were not kept, once it answered or ended
        by itself."""
        unkept = self.prompt - self.cached
        has_answered = self.first_s is not None or self.generated > 0
        is_whole = has_answered or self.finish not in ("", "cancelled")
        return unkept if is_whole else min(self.read, unkept)

    def line(self) -> str:
        """The log's line about it."""
        end = self.state if self.state in STATUSES else self.finish or self.state
        said = [f"#{self.number} {self.dialect} {self.client}", end]
        if self.prompt:
            read = self.read_tokens
            said.append(f"prompt {self.prompt:,} = {self.cached:,} kept + {read:,} read")
            if left := self.prompt - self.cached - read:
                said.append(f"{left:,} not read")
        if self.known:
            said.append(f"parts at {self.known:,}")
        if self.first_s is not None:
            said.append(f"first after {self.first_s:.2f} s")
        if self.generated:
            speed = f", {self.generated / self.decode_s:.1f} tok/s" if self.decode_s else ""
            said.append(f"{self.generated:,} tokens{speed}")
        said.append(f"{self.took_s:.1f} s")
        if self.passed_over:
            names = [exact(name[:_MOST_NAME]) for name in self.passed_over[:_MOST_NAMES]]
            said.append(f"without {' and '.join(names)}")
        return ", ".join(said)


@dataclass
class Totals:
    """Sums over all requests that ended, by dialect and by how they ended, and in tokens."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompt: int = 0
    cached: int = 0
    read: int = 0
    generated: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Records:
    """All requests: the open ones by number, the sums of the others.

    `on_event` is told of a record whenever it changed, `on_end` when its request is over; both in
    the event loop.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        *,
        on_event: Callable[[RequestRecord], None] = lambda record: None,
        on_end: Callable[[RequestRecord], None] = lambda record: None,
        hear: Callable[[], None] = lambda: None,
    ) -> None:
        self.open: dict[int, RequestRecord] = {}
        self.totals = Totals()
        self.last_ended = clock()
        """When the last request was over."""
        self.clock = clock
        self._numbers = 0
        self._refusals = RateLimit(_MOST_REFUSALS, clock)
        self.on_event, self.on_end, self._hear = on_event, on_end, hear

    def begin(self, dialect: str, client: str = "", owner: str = "") -> "RecordedRequest":
        """A request came."""
        self._numbers += 1
        record = RequestRecord(self._numbers, dialect, client, owner, self.clock())
        self.open[record.number] = record
        self.on_event(record)
        return RecordedRequest(self, record)

    def refused(self, client: str, fault: Fault) -> None:
        """A request was refused before it was one of a dialect; of many only some are told."""
        self.totals.requests[_OTHER, fault.kind] += 1
        if self._refusals.allows(_OTHER):
            self._numbers += 1
            now = self.clock()
            self.on_end(RequestRecord(self._numbers, _OTHER, client, "", now, state=fault.kind))

    def heard(self, record: RequestRecord) -> None:
        """A record changed."""
        self._hear()
        self.on_event(record)

    def end(self, record: RequestRecord) -> None:
        """Its request is over."""
        self.open.pop(record.number, None)
        self.last_ended = self.clock()
        totals = self.totals
        totals.requests[record.dialect, record.state] += 1
        totals.prompt += record.prompt
        totals.cached += record.cached
        totals.read += record.read_tokens
        totals.generated += record.generated
        totals.prefill_s += record.prefill_s
        totals.decode_s += record.decode_s
        self.on_end(record)


class RecordedRequest:
    """Writes down what happens to one request; see `answering.RequestWatch`."""

    def __init__(self, records: Records, record: RequestRecord) -> None:
        self._records, self.record = records, record

    def event(self, answer: int, event: ServedEvent) -> None:
        """An event of answer number `answer`; of the prompt the first one's count."""
        record = self.record
        match event:
            case Begun(prompt, cached, known) if not answer:
                record.prompt, record.cached, record.known = prompt, cached, known
                record.state = "reading"
            case Progress(done, _) if not answer:
                record.read = done
            case LayersPassed(done, total):
                record.layers = (done, total)
            case TextDelta() | ReasoningDelta() | CallBegun():
                record.state = "answering"
                if record.first_s is None:
                    record.first_s = self._records.clock() - record.began_at
            case Done():
                record.generated += event.usage.completion_tokens
                record.finish = event.finish_reason
                record.decode_s = max(record.decode_s, event.timing.generation_s)
                record.prefill_s = max(record.prefill_s, event.timing.prefill_s)
        self._records.heard(record)

    def generated(self, pieces: int) -> None:
        """So many deltas came by now, those that were joined among them."""
        self.record.pieces = pieces

    def end(self, fault: Fault | None, is_gone: bool) -> None:
        """The request is over: as asked, by a fault, or because its client left."""
        record = self.record
        record.took_s = self._records.clock() - record.began_at
        if fault is not None:
            record.state = fault.kind
        else:
            record.state = "cancelled" if is_gone else "done"
        self._records.end(record)
