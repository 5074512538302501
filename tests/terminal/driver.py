"""A program on a pseudo-terminal, seen as the screen a person sees (pexpect and pyte)."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pyte

PROGRAM = Path(__file__).with_name("scripted_chat.py")
TIMEOUT_S = 30.0


class Terminal:
    """One running program and its screen."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        home: Path,
        columns: int = 80,
        lines: int = 24,
        variables: dict[str, str] | None = None,
    ) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "COLUMNS": str(columns),
            "LINES": str(lines),
            "PROMPT_TOOLKIT_NO_CPR": "1",
        } | (variables or {})
        self.screen = pyte.HistoryScreen(columns, lines, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.received = b""
        self._child = pexpect.spawn(
            command[0],
            list(command[1:]),
            env=environment,  # type: ignore[arg-type]
            cwd=str(home),
            dimensions=(lines, columns),
            timeout=TIMEOUT_S,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)

    @property
    def text(self) -> str:
        """The lines on the screen, without trailing space."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def type(self, keys: str) -> None:
        """Send keys; "\\r" is Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D."""
        self._child.send(keys)

    def wait_for(self, *texts: str) -> None:
        """Until all `texts` are on the screen."""
        deadline = time.monotonic() + TIMEOUT_S
        while not all(text in self.text for text in texts):
            ended = not self._receive()
            if ended or time.monotonic() > deadline:
                missing = [text for text in texts if text not in self.text]
                if not missing:
                    return
                raise AssertionError(f"{missing} did not appear on the screen:\n{self.text}")

    def wait_for_end(self) -> int:
        """Read until the program ends; its exit status, negative for a signal."""
        while self._receive():
            pass
        self._child.close()
        status = self._child.exitstatus
        return -self._child.signalstatus if status is None else status

    def _receive(self) -> bool:
        try:
            data = self._child.read_nonblocking(65536, timeout=TIMEOUT_S)
        except pexpect.EOF:
            return False
        except pexpect.TIMEOUT as silence:
            raise AssertionError(f"nothing more appeared on the screen:\n{self.text}") from silence
        self.received += data
        self._stream.feed(data)
        return True


def scripted_chat(folder: Path, replies: Sequence[str], *arguments: str, **options) -> Terminal:
    """`dsv4-chat` whose model says `replies`, on a terminal."""
    command = [sys.executable, str(PROGRAM), json.dumps(list(replies)), "--model", str(folder)]
    return Terminal([*command, *arguments], home=folder, **options)
