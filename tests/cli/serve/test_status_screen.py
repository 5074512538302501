"""What a person sees of the server: a live screen of a fixed width, and lines where none is."""

import asyncio
import io
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cli.environment import Environment
from cli.serve.metrics import CacheFigures
from cli.serve.records import Records, RequestRecord
from cli.serve.status_feed import show_status
from cli.serve.status_screen import LiveScreen, LogLines, ServerStatus, screen, server_display
from cli.show.theme import DARK, PLAIN
from dsv4_mlx.chat.events import Done, Progress, TextDelta, Usage
from dsv4_mlx.serving.events import Begun, LayersPassed
from tests.cli.screen import Clock

HELD = CacheFigures(memory_bytes=3_100_000_000, places=12, disk_bytes=8_400_000_000)
STATUS = ServerStatus("DeepSeek-V4-Flash", "http://127.0.0.1:8642", "ready", HELD)
AT = datetime(2026, 11, 30, 14, 3, 22)
NOW_S = 42.0


def requests() -> list[RequestRecord]:
    """One in each state, by the records that a server keeps."""
    records = Records(Clock())
    watches = [
        records.begin("chat", client)
        for client in ("opencode/1.18.33", "claude-cli/2.1.197", "codex_exec/0.171", "pi/0.73.1")
    ]
    for watch in watches[:3]:
        watch.event(0, Begun(24_010, 10))
    watches[0].event(0, TextDelta("a"))
    watches[0].generated(1024)
    watches[1].event(0, Progress(12_288, 24_000))
    watches[2].event(0, LayersPassed(20, 43))
    return [watch.record for watch in watches]


def drawn(*arguments: Any, width: int = 72, rows: int = 20) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, _environ={})
    console.print(screen(*arguments, rows=rows))
    return file.getvalue()


@pytest.mark.parametrize("width", [72, 40])
def test_the_screen_of_a_busy_server(width: int, golden: Callable[[str, str], None]) -> None:
    text = drawn(STATUS, requests(), NOW_S, DARK, width=width)
    assert all(len(line) <= width for line in text.splitlines())
    golden(f"serve/screen-{width}.txt", text)


def test_the_screen_of_an_idle_server_says_what_it_is_at() -> None:
    assert drawn(ServerStatus("m", "http://h:1", "loading"), [], 0.0, DARK).splitlines() == [
        "",
        "m on http://h:1",
        "loading",
        "0 places held: 0 B in memory, 0 B on disk",
    ]


def test_who_answers_comes_first_and_what_does_not_fit_is_counted() -> None:
    many = [RequestRecord(n, "chat", "pi", "", 0.0) for n in range(8, 30)]
    lines = drawn(STATUS, [*many, *requests()], NOW_S, PLAIN, rows=5).splitlines()
    assert [line.split()[0] for line in lines[5:]] == ["#1", "#2", "#3", "#4", "and"]
    assert lines[-1] == "and 22 more" and "reading [#####---] 12,288 of 24,000" in lines[6]


def test_a_lost_rank_is_told_with_its_sentence() -> None:
    status = ServerStatus("m", "http://h:1", "lost", HELD, "rank 1 (mini) is gone.")
    lines = drawn(status, [], NOW_S, PLAIN, rows=5).splitlines()
    assert "lost: rank 1 (mini) is gone." in lines


def test_without_a_terminal_there_are_lines_with_their_time() -> None:
    stderr = io.StringIO()
    environment = Environment(io.StringIO(), io.StringIO(), stderr, {"TERM": "xterm"})
    display = server_display(environment, now=lambda: AT)
    assert isinstance(display, LogLines) and not display.is_live
    with display:
        display.show(STATUS, requests(), NOW_S)
        display.note("#2 chat pi\x1b[31m, stop")
    assert stderr.getvalue() == "2026-11-30 14:03:22 #2 chat pi␛[31m, stop\n"


def test_on_a_terminal_what_ended_stays_and_the_rest_is_drawn_anew() -> None:
    stderr = io.StringIO()
    environment = Environment(io.StringIO(), io.StringIO(), stderr, {"TERM": "xterm"})
    with LiveScreen(environment, PLAIN, lambda: AT) as display:
        display.show(STATUS, requests(), NOW_S)
        display.note("#2 chat pi, stop")
        display.show(STATUS, [], NOW_S)
    text = stderr.getvalue()
    assert text.index("answering, 1,024 tokens") < text.index("14:03:22 #2 chat pi, stop")
    assert text.index("14:03:22 #2") < text.rindex("ready")
    assert "\x1b[?25h" in text  # the cursor is back


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_the_server_goes_on_when_nobody_reads_its_lines() -> None:
    environment = Environment(io.StringIO(), io.StringIO(), Gone(), {})
    LogLines(environment, lambda: AT).note("#2 chat pi, stop")


def test_the_screen_is_told_of_open_requests_and_of_what_is_held() -> None:
    records, shown = Records(Clock()), []
    records.begin("chat", "pi")

    async def figures() -> CacheFigures:
        return HELD

    app: Any = SimpleNamespace(
        names=("m", "alias"), records=records, model=SimpleNamespace(state="ready")
    )
    app.cache_figures = figures

    class Once(LogLines):
        def show(self, status: ServerStatus, requests: Any, now_s: float) -> None:
            shown.append((status, [one.client for one in requests], now_s))
            raise asyncio.CancelledError

    display = Once(Environment(io.StringIO(), io.StringIO(), io.StringIO(), {}), lambda: AT)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(show_status(display, app, "http://h:1"))
    assert shown == [(ServerStatus("m", "http://h:1", "ready", HELD), ["pi"], 0.0)]


def test_a_line_of_the_log_tells_where_a_prompt_parts_from_what_was_read() -> None:
    lines: list[str] = []
    records = Records(Clock(), on_end=lambda record: lines.append(record.line()))
    watch = records.begin("messages", "claude-cli/2.1.197")
    watch.event(0, Begun(24_010, 18_002, 18_040))
    watch.event(0, Done("stop", Usage(24_010, 18_002, 3)))
    watch.end(None, False)
    assert lines == [
        "#1 messages claude-cli/2.1.197, stop, prompt 24,010 = 18,002 kept + 6,008 read, "
        "parts at 18,040, 3 tokens, 0.0 s"
    ]
