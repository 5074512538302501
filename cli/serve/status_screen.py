"""What the server does, for a person: a live screen on a terminal, else a line for each request.

Lines about requests that ended stay above the live part, as in a log. All of it goes to stderr, and
nothing of a prompt is in it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from cli.environment import Environment
from cli.safe import exact, harmless
from cli.serve.metrics import CacheFigures
from cli.serve.records import RequestRecord
from cli.show.screen.status import byte_count, meter_bar
from cli.show.theme import Theme, theme_named

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_ORDER = ("answering", "reading", "waiting")
_LINES_BESIDE = 7
"""Of a screen: the head, what separates, what is not shown, and a line of the log."""


@dataclass(frozen=True)
class ServerStatus:
    """The server at one moment."""

    model: str
    url: str
    state: str = "ready"
    """`loading`, `ready`, `idle`, `lost` or `failed`."""
    held: CacheFigures = field(default=CacheFigures())
    why: str = ""
    """Why it is lost, a sentence."""


class ServerDisplay(Protocol):
    """Shows what a server does; used from one thread, within `with`."""

    is_live: bool
    """Whether `show` shows anything."""

    def __enter__(self) -> "ServerDisplay": ...

    def __exit__(self, *_: object) -> None: ...

    def show(
        self, status: ServerStatus, requests: Sequence[RequestRecord], now_s: float, /
    ) -> None:
        """How it stands: all requests that run or wait, and what their records' clock says."""
        ...

    def note(self, sentence: str, /) -> None:
        """A line of the log."""
        ...


def server_display(
    environment: Environment,
    theme: str = "auto",
    *,
    plain: bool = False,
    now: Callable[[], datetime] = datetime.now,
) -> ServerDisplay:
    """The live screen where stderr is a capable terminal, unless `plain`; else lines."""
    if plain or not environment.errors_terminal:
        return LogLines(environment, now)
    return LiveScreen(environment, theme_named(theme, environment.variables), now)


class LogLines:
    """Lines, each with its time."""

    is_live = False

    def __init__(self, environment: Environment, now: Callable[[], datetime]) -> None:
        self._stream, self._now = environment.stderr, now

    def __enter__(self) -> "LogLines":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def show(self, status: ServerStatus, requests: Sequence[RequestRecord], now_s: float) -> None:
        """Lines tell what ended, not what goes on."""

    def note(self, sentence: str) -> None:
        """A line with the day and the time."""
        with suppress(OSError):  # nobody reads; the server goes on
            self._stream.write(f"{self._now():%Y-%m-%d %H:%M:%S} {harmless(sentence)}\n")
            self._stream.flush()


class LiveScreen:
    """The lower part of a terminal, drawn anew; lines about what ended scroll away above it."""

    is_live = True

    def __init__(
        self, environment: Environment, theme: Theme, now: Callable[[], datetime] = datetime.now
    ) -> None:
        from rich.live import Live

        self._theme, self._now = theme, now
        self._console = _console(environment, theme)
        # Whoever tells it what to show says when: no thread of its own, and other output stays.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> "LiveScreen":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def show(self, status: ServerStatus, requests: Sequence[RequestRecord], now_s: float) -> None:
        """Draw how it stands."""
        rows = max(1, self._console.height - _LINES_BESIDE)
        drawn = screen(status, requests, now_s, self._theme, rows=rows)
        with suppress(OSError):
            self._live.update(drawn, refresh=True)

    def note(self, sentence: str) -> None:
        """A line with the time, above the live part."""
        from rich.text import Text

        line = Text(f"{self._now():%H:%M:%S} ", self._theme.style("note"))
        line.append(harmless(sentence), "none")
        with suppress(OSError):
            self._console.print(line)


def _console(environment: Environment, theme: Theme) -> "Console":
    from rich.console import Console

    return Console(
        file=environment.stderr,
        force_terminal=True,
        no_color=not theme.has_codes,
        highlight=False,
        markup=False,
        emoji=False,
    )


def screen(
    status: ServerStatus,
    requests: Sequence[RequestRecord],
    now_s: float,
    theme: Theme,
    *,
    rows: int,
) -> "RenderableType":
    """The live part: a head of three lines, and at most `rows` below it for requests."""
    from rich.console import Group
    from rich.text import Text

    open_ones = [one for one in requests if one.state in _ORDER]
    ordered = sorted(open_ones, key=lambda one: (_ORDER.index(one.state), one.number))
    shown = ordered if len(ordered) <= rows else ordered[: max(1, rows - 1)]
    numbers = [f"#{one.number}" for one in shown]
    first = max(map(len, numbers), default=0)
    second = max((len(one.client) for one in shown), default=0)
    lines: list[RenderableType] = [Text(), *_head(status, ordered, theme)]
    lines += [Text()] if shown else []
    for number, one in zip(numbers, shown, strict=True):
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(number.rjust(first), theme.style("note"))
        line.append(f"  {one.client.ljust(second)}  ")
        lines.append(line.append_text(_doing(one, now_s, theme)))
    if len(shown) < len(ordered):
        lines.append(Text(f"and {len(ordered) - len(shown):,} more", theme.style("note")))
    return Group(*lines)


def _head(status: ServerStatus, requests: Sequence[RequestRecord], theme: Theme) -> "list[Text]":
    from rich.text import Text

    counts = [(sum(one.state == state for one in requests), state) for state in _ORDER]
    told = [f"{count:,} {state}" for count, state in counts if count]
    doing = ", ".join(told) if status.state == "ready" and told else exact(status.state)
    doing = f"{doing}: {exact(status.why)}" if status.why else doing
    held = status.held
    kept = (
        f"{_counted(held.places, 'place')} held: {byte_count(held.memory_bytes)} in memory, "
        f"{byte_count(held.disk_bytes)} on disk"
    )
    first = Text(no_wrap=True, overflow="ellipsis")
    first.append(exact(status.model), theme.style("heading"))
    first.append(f" on {exact(status.url)}")
    quiet = theme.style("status")
    return [
        first,
        *(Text(line, quiet, no_wrap=True, overflow="ellipsis") for line in (doing, kept)),
    ]


def _doing(request: RequestRecord, now_s: float, theme: Theme) -> "Text":
    """What one request is at."""
    from rich.text import Text

    if request.state == "answering":
        return Text(f"answering, {_counted(request.pieces, 'token')}{_speed(request, now_s)}")
    if request.state != "reading":
        return Text(request.state, theme.style("note"))
    done, total, unit = request.read, request.prompt - request.cached, "tokens"
    if request.layers is not None:
        (done, total), unit = request.layers, "layers"
    line = Text("reading ")
    line.append(meter_bar(done / max(1, total), blocks=theme.has_codes), theme.style("meter"))
    return line.append(f" {done:,} of {total:,} {unit}")


def _speed(request: RequestRecord, now_s: float) -> str:
    """Tokens per second of all its answers, from the first token on."""
    first_s = 0.0 if request.first_s is None else request.first_s
    taken_s = now_s - request.began_at - first_s
    return f", {request.pieces / taken_s:,.1f} tok/s" if taken_s > 0 and request.pieces else ""


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
