"""How the chat program feels, and what it costs: a person's measures on a pseudo-terminal.

    python -m benchmarks.terminal [--keys N] [--seconds S]

With the scripted engine: milliseconds from a key to its echo while the model answers, frames a
second while tokens come faster than frames, bytes written while nothing happens. Then the renderer
alone: processor time for answers of 1,000 and 10,000 lines. Rows go to results/terminal.csv.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pexpect

from benchmarks.record import record

FIELDS = ("what", "value", "unit", "goal")
COLUMNS, LINES = 80, 24
FRAME = b"\x1b[?2026h"  # begins every change of the screen
_QUIET_S = 1.0
_REPEAT = 600  # longer than any measure here takes

ANSWER = """\
## Part

A paragraph with some *words* in it and `code`, long enough to need a second line on eighty columns.

- an item
- and another one

```python
def part(x):
    return x + 1  # more
```

"""
SHAPES: dict[str, Callable[[int], str]] = {
    "code": lambda lines: "```python\n" + "    value = call(1, 'x')  # note\n" * lines + "```\n",
    "list": lambda lines: "- an *item* of some words and `code`\n" * lines,
    "table": lambda lines: "| a | b |\n|---|---|\n" + "| one | *two* three |\n" * lines,
    "paragraph": lambda lines: "some *words* of one line that goes on " * lines,
}
DELTA = 5  # characters of a token, about


class Program:
    """`dsv4-chat` with a scripted engine, seen as the bytes it writes."""

    def __init__(self, script: dict[str, Any], home: Path) -> None:
        file = home / "script.json"
        file.write_text(json.dumps(script), encoding="utf-8")
        arguments = ["-m", "cli", "--engine", f"fake:{file}", "--no-save"]
        variables = os.environ | {"TERM": "xterm-256color", "DSV4_HOME": str(home)}
        self._child = pexpect.spawn(
            sys.executable, arguments, env=variables, dimensions=(LINES, COLUMNS), timeout=60
        )
        self._child.delaybeforesend = None
        self.wait_for(b"> ")

    def send(self, text: str) -> None:
        """Keys, as a terminal sends them."""
        self._child.send(text)

    def wait_for(self, text: bytes) -> None:
        """Until `text` is written."""
        self._child.expect_exact(text)

    def wait_for_match(self, pattern: bytes) -> bytes:
        """Until something matches; its group."""
        self._child.expect(pattern)
        return self._child.match[1]

    def read_for(self, seconds: float) -> bytes:
        """All that is written during `seconds`."""
        end, received = time.perf_counter() + seconds, b""
        while (left := end - time.perf_counter()) > 0:
            try:
                received += self._child.read_nonblocking(65536, timeout=left)
            except pexpect.TIMEOUT:
                break
        return received

    def settle(self) -> None:
        """Until nothing is written for a while."""
        while self.read_for(_QUIET_S):
            pass

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._child.kill(signal.SIGKILL)
        self._child.wait()
        self._child.close()


@contextmanager
def program(**reply: Any) -> Iterator[Program]:
    """A program on a terminal of its own that answers everything with `reply`."""
    with tempfile.TemporaryDirectory() as folder:
        running = Program({"replies": [reply]}, Path(folder))
        try:
            yield running
        finally:
            running.close()


def key_to_echo(keys: int) -> list[float]:
    """Milliseconds from each of `keys` keys to its echo, while an answer comes at full speed."""
    found = []
    with program(text=ANSWER, repeat=_REPEAT) as running:
        running.send("begin\r")
        running.wait_for(b"Part")
        for number in range(keys):
            running.read_for(0.02 + 0.013 * (number % 5))  # at any moment between two frames
            key = chr(0x4E00 + number)  # a character that the answer does not hold
            start = time.perf_counter()
            running.send(key)
            running.wait_for(key.encode())
            found.append(1000 * (time.perf_counter() - start))
    return found


def frames_per_second(seconds: float) -> tuple[float, float]:
    """Frames a second during an answer, and tokens a second as the status line tells them."""
    with program(text=ANSWER, repeat=_REPEAT) as running:
        running.send("begin\r")
        running.wait_for(b"Part")
        frames = running.read_for(seconds).count(FRAME) / seconds
        running.send("\x03")
        return frames, float(running.wait_for_match(rb"([\d.,]+) tok/s").replace(b",", b""))


def idle_bytes(seconds: float) -> int:
    """Bytes written in `seconds` after an answer, with nothing to do."""
    with program(text=ANSWER) as running:
        running.send("begin\r")
        running.wait_for(b"more")
        running.settle()
        return len(running.read_for(seconds))


class _Terminal:
    """The drawing part of a terminal surface: 20 frames a second of the renderer's own time."""

    width = COLUMNS

    def __init__(self) -> None:
        from cli.show.screen.drawing import Drawing

        self._drawing = Drawing({"TERM": "xterm-256color"})
        self._file = StringIO()
        self._next_frame = 0.0

    def show(self, renderable: Any) -> None:
        self._file.write(self._drawing.text(renderable, COLUMNS))

    def live(self, renderable: Any) -> None:
        if renderable is not None and time.process_time() >= self._next_frame:
            self._drawing.cells(renderable, COLUMNS, LINES)
            self._next_frame = time.process_time() + 0.05


def renderer_seconds(text: str) -> float:
    """Processor time to draw `text` that comes token by token."""
    from cli.show.renderer import MarkdownView
    from cli.show.theme import DARK
    from dsv4_mlx.chat.events import TextDelta

    terminal: Any = _Terminal()
    view = MarkdownView(terminal, DARK)
    view.begin()
    start = time.process_time()
    for place in range(0, len(text), DELTA):
        view.feed(TextDelta(text[place : place + DELTA]))
    view.end()
    return time.process_time() - start


def measure(keys: int, seconds: float) -> list[dict[str, Any]]:
    """Every row."""
    echoes = key_to_echo(keys)
    frames, tokens = frames_per_second(seconds)
    rows = [
        _row("key to echo while answering, median", statistics.median(echoes), "ms", "< 50"),
        _row("key to echo while answering, 95th of 100", _percentile(echoes, 95), "ms", "< 50"),
        _row("frames while answering", frames, "1/s", "10 to 20"),
        _row("tokens while answering", tokens, "1/s", "more than frames"),
        _row(f"written in {seconds:g} s without anything to do", idle_bytes(seconds), "B", "0"),
    ]
    renderer_seconds(SHAPES["code"](10))  # what is imported and cached once
    for shape, make in SHAPES.items():
        for lines in (1_000, 10_000):
            cost = renderer_seconds(make(lines)) / lines * 1e6
            rows.append(_row(f"renderer, {shape} of {lines:,} lines", cost, "µs a line", "linear"))
    return rows


def _row(what: str, value: float, unit: str, goal: str) -> dict[str, Any]:
    return {"what": what, "value": f"{value:.4g}", "unit": unit, "goal": goal}


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    rows = measure(options.keys, options.seconds)
    for row in rows:
        print(f"{row['what']:48} {row['value']:>8} {row['unit']:10} {row['goal']}")
    command = f"python -m benchmarks.terminal --keys {options.keys} --seconds {options.seconds:g}"
    record("terminal", command, rows, FIELDS)


if __name__ == "__main__":
    main()
