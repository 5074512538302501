"""When the draft of a prompt is written: soon after a key, away from the thread that draws."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cli.show.screen.drafts import Drafts
from cli.show.screen.prompt import PromptInput

_REST_S = 0.5
"""What was typed for so long is written at once."""
_AGAIN = "[your draft from before is in the input again]"
_IN_HISTORY = "[a draft from before is in the history: Up brings it]"


class DraftKeeper:
    """Keeps what stands in `prompt`, on the thread of the event loop; writes on one of its own."""

    def __init__(self, prompt: PromptInput, drafts: Drafts, tell: Callable[[str], None]) -> None:
        self._prompt = prompt
        self._drafts = drafts
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writer: ThreadPoolExecutor | None = None
        prompt.around.changed = self._changed

    def begin(self, loop: asyncio.AbstractEventLoop, *, typed_ahead: bool) -> None:
        """Offer what a program before this one lost; what is `typed_ahead` is about to be put into
        the input."""
        self._loop = loop
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draft")
        lost = self._drafts.take()
        if not lost:
            return
        pastes, buffer = self._prompt.pastes, self._prompt.buffer
        text = pastes.restored(lost)
        if pastes.expand(buffer.text) == pastes.expand(text):
            return
        if typed_ahead:
            buffer.history.append_string(text)
            self._tell(_IN_HISTORY)
        else:
            self._tell(_AGAIN if self._prompt.offer(text) else _IN_HISTORY)
        self._changed()

    def keep_now(self) -> None:
        """Write before this returns; the end may be near."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writer is not None:
            parts = self._prompt.pastes.parts(self._prompt.unsent)
            self._writer.submit(self._drafts.keep, parts).result()

    def end(self) -> None:
        """Keep what is left, for the next program."""
        self.keep_now()
        if self._writer is not None:
            self._writer.shutdown()
        self._drafts.close()
        self._loop = self._writer = None

    def _changed(self) -> None:
        if self._loop is not None and self._timer is None:
            self._timer = self._loop.call_later(_REST_S, self._keep)

    def _keep(self) -> None:
        self._timer = None
        if self._writer is not None:
            parts = self._prompt.pastes.parts(self._prompt.buffer.text)
            self._writer.submit(self._drafts.keep, parts)
