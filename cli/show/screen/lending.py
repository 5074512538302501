"""Lending the terminal to another program: the person's editor, or the shell behind Ctrl-Z."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prompt_toolkit.application import in_terminal
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys

from cli.show.screen.application import ScreenApplication
from cli.show.screen.editor import edited
from cli.show.screen.paste import sendable
from cli.show.screen.prompt import PromptInput
from cli.show.screen.terminal_input import TerminalInput
from cli.show.screen.terminal_output import TerminalOutput
from dsv4_mlx.errors import UsageError


class Lending:
    """Lends the terminal of `app`, on the thread that draws; `fail` shows what went wrong."""

    def __init__(
        self,
        app: ScreenApplication,
        prompt: PromptInput,
        output: TerminalOutput,
        variables: Mapping[str, str],
        fail: Callable[[str], None],
    ) -> None:
        self._app = app
        self._prompt = prompt
        self._output = output
        self._variables = variables
        self._fail = fail
        prompt.around.edit = lambda: self._begin(self._edit())
        prompt.around.suspend = lambda: self._begin(self._suspend())

    def typed_ahead(self) -> list[KeyPress]:
        """Keys from before the prompt was there."""
        source = self._app.input
        keys = source.read_typed_ahead() if isinstance(source, TerminalInput) else []
        if keys and keys[-1].key != Keys.ControlM:
            self._output.write_raw("\r\x1b[K")  # where the terminal itself echoed them
        return keys

    def _begin(self, task: Coroutine[Any, Any, None]) -> None:
        self._app.create_background_task(task)

    async def _edit(self) -> None:
        """The input in the person's own editor."""
        buffer, pastes = self._prompt.buffer, self._prompt.pastes
        text = sendable(pastes.expand(buffer.text))
        try:
            async with self._lent():
                changed = await asyncio.to_thread(edited, text, self._variables)
        except UsageError as error:
            self._fail(str(error))
            return
        if changed is not None and changed != text:  # unchanged, what was pasted stays text
            folded = pastes.fold(changed)
            buffer.set_document(Document(folded, len(folded)))

    async def _suspend(self) -> None:
        async with self._lent():
            os.kill(0, signal.SIGTSTP)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[None]:
        """Another program has the terminal; what comes meanwhile is shown afterwards."""
        keys: list[KeyPress] = []
        try:
            async with in_terminal():
                self._prompt.lent = True
                self._output.paste_off()
                self._output.flush()
                try:
                    yield
                finally:
                    self._prompt.lent = False
                    self._output.paste_on()
                    self._output.measure()
                    keys = self.typed_ahead()
        finally:
            self._app.key_processor.feed_multiple(keys)
            self._app.key_processor.process_keys()
