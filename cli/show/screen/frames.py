"""When the screen is drawn, and which finished and live text go into one frame.

Any thread hands text over; the thread of the event loop draws, at most twenty times a second and
never while nothing changed.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_FRAME_S = 0.05
_REST = 3
"""What is slow to draw is drawn less often: it rests so many times as long as it took."""
_PAIR_S = 0.1
"""How long a finished block waits for the live text that takes the place of what it was."""


class Frames:
    """What waits to be drawn."""

    def __init__(self, draw: Callable[[], None]) -> None:
        """`draw` draws a frame, for which it takes what `take` gives."""
        self._draw_now = draw
        self._lock = threading.Lock()
        self._printing: list[str] = []
        self._live: RenderableType | None = None
        self._unpaired_until = 0.0  # text came that may be what the live text still shows
        self._woken = False
        self.live: RenderableType | None = None
        """The live text that belongs to what `take` gave last."""

        # Only for the drawing thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: list[Callable[[], None]] = []
        self._frame: asyncio.TimerHandle | None = None
        self._next_frame = 0.0

    # From any thread

    def show(self, text: str) -> None:
        """Print `text` with the next frame."""
        with self._lock:
            self._printing.append(text)
            if self._live is not None:
                self._unpaired_until = time.monotonic() + _PAIR_S
        self.wake()

    def replace_live(self, renderable: "RenderableType | None") -> None:
        """Draw `renderable` from the next frame on."""
        with self._lock:
            self._live = renderable
            self._unpaired_until = 0.0
        self.wake()

    def settle(self) -> None:
        """Nothing is coming that finished text should wait for."""
        self._unpaired_until = 0.0

    def wake(self) -> None:
        """There is something new to draw."""
        with self._lock:
            if self._woken:
                return
            self._woken = True
        self.call(self._schedule)

    def call(self, action: Callable[[], None]) -> bool:
        """Do `action` on the drawing thread; False where nothing draws any more."""
        if self._loop is None:
            self._before.append(action)  # for the moment when drawing begins
            return True
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # closed
            return False
        return True

    # On the drawing thread

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Draw from now on."""
        self._loop, self._frame, self._woken = loop, None, False
        for action in self._before:
            action()
        self._before.clear()

    def take(self) -> str:
        """Finished text to print with this frame, and in `live` the live text that goes with it."""
        with self._lock:
            if time.monotonic() < self._unpaired_until:
                return ""
            text = "".join(self._printing)
            self._printing.clear()
            self.live = self._live
        return text

    def _schedule(self) -> None:
        """Draw as soon as the last frame is old enough and finished text is paired with live."""
        self._woken = False
        assert self._loop is not None
        now = time.monotonic()
        due = max(now, self._next_frame, self._unpaired_until)
        if self._frame is not None:
            if self._frame.when() <= due:
                return
            self._frame.cancel()
        self._frame = self._loop.call_at(due, self._draw)

    def _draw(self) -> None:
        self._frame = None
        began = time.monotonic()
        self._draw_now()
        now = time.monotonic()
        self._next_frame = max(began + _FRAME_S, now + _REST * (now - began))
