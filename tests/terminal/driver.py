"""A program on a pseudo-terminal, seen as the screen a person sees (pexpect and pyte)."""

import json
import os
import re
import signal
import sys
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pexpect
import pyte

from cli.talk.welcome import HINT
from tests.terminal.screen import Screen

PROGRAM = Path(__file__).with_name("scripted_chat.py")
SURFACE = Path(__file__).with_name("surface_program.py")
TIMEOUT_S = 30.0
PASTE = "\x1b[200~{}\x1b[201~"
_MODE = re.compile(rb"\x1b\[\?(\d+)([hl])")


class Terminal:
    """One running program and its screen.

    Keys: "\\r" is Enter, "\\x1b\\r" Alt-Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D, "\\x1b[A" Up,
    "\\x1b[Z" Shift-Tab.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        home: Path,
        columns: int = 80,
        lines: int = 24,
        reflows: bool = True,
        variables: dict[str, str] | None = None,
    ) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": os.environ.get("PYTHONDONTWRITEBYTECODE", ""),
        } | (variables or {})
        if not reflows:
            environment["XTERM_VERSION"] = "XTerm(390)"
        self.home = home
        self.screen = Screen(columns, lines, reflows=reflows)
        self._stream = pyte.ByteStream(self.screen)
        self.received = b""
        """Every byte the program wrote."""
        self.ended = False
        self._child = pexpect.spawn(
            str(command[0]),
            [str(argument) for argument in command[1:]],
            env=environment,  # type: ignore[arg-type]
            cwd=str(home),
            dimensions=(lines, columns),
            timeout=TIMEOUT_S,
        )
        # pexpect waits 50 ms before each key by default; there is nothing to wait for here.
        self._child.delaybeforesend = None

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        """End the program, if it did not end, at once."""
        if not self._child.closed:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._close()

    # What a person sees

    @property
    def text(self) -> str:
        """The lines on the screen, without trailing space."""
        return "\n".join(self.screen.rows).rstrip()

    @property
    def whole_text(self) -> str:
        """What scrolled off, and the screen."""
        return "\n".join([*self.screen.scrollback, self.text])

    @property
    def line(self) -> str:
        """The line of the cursor, without the hint that stands where nothing is typed yet."""
        return self.screen.rows[self.screen.cursor.y].removesuffix(f" {HINT}")

    @property
    def pid(self) -> int:
        """The program's process."""
        return self._child.pid

    @property
    def modes(self) -> dict[int, bool]:
        """The private modes that the program switched, as they stand now."""
        found = _MODE.findall(self.received)
        return {int(number): switch == b"h" for number, switch in found}

    @property
    def is_cooked(self) -> bool:
        """The terminal echoes and reads whole lines, as a shell leaves it."""
        if not self._child.closed:
            local = termios.tcgetattr(self._child.child_fd)[3]
            wanted = termios.ECHO | termios.ICANON | termios.ISIG
            self._was_cooked = local & wanted == wanted
        return self._was_cooked

    # What a person does

    def type(self, keys: str) -> None:
        """Send keys as they are."""
        self._child.send(keys)

    def paste(self, text: str) -> None:
        """Send text as a terminal sends what is pasted."""
        self._child.send(PASTE.format(text))

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the window; what was written before arrives before."""
        # The program stands still meanwhile: what it writes for one size must not come at another.
        os.kill(self.pid, signal.SIGSTOP)
        with suppress(AssertionError):
            while self._receive(0):
                pass
        self._child.setwinsize(lines, columns)
        self.screen.resize(lines, columns)
        os.kill(self.pid, signal.SIGCONT)

    def hang_up(self) -> int:
        """Close the window; the program's exit status, negative for a signal."""
        os.close(self._child.child_fd)
        _, status = os.waitpid(self.pid, 0)
        self._child.closed, self.ended = True, True
        return os.waitstatus_to_exitcode(status)

    def kill(self, number: int) -> None:
        """Send a signal to the program."""
        os.kill(self.pid, number)

    # Waiting

    def wait_for(self, *texts: str) -> None:
        """Until all `texts` are on the screen."""
        self.wait_until(lambda: all(text in self.text for text in texts), " and ".join(texts))

    def wait_for_line(self, line: str) -> None:
        """Until the cursor stands on `line`."""
        self.wait_until(lambda: self.line == line, f"a cursor on {line!r}")

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Until `holds`, looking whenever something was written."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            if time.monotonic() > deadline or (self.ended or not self._receive()):
                if holds():
                    return
                raise AssertionError(f"no {what} on the screen:\n{self.text}")

    def wait_for_end(self) -> int:
        """Read until the program ends; its exit status, negative for a signal."""
        while not self.ended and self._receive():
            pass
        assert self.is_cooked in (True, False)  # remembered beyond the terminal's end
        self._close()
        status = self._child.exitstatus
        return -self._child.signalstatus if status is None else status

    def _close(self) -> None:
        # Without the wait pexpect would end a program that is still about to end by itself.
        with suppress(pexpect.ExceptionPexpect):  # it is waited for already
            self._child.wait()
        self._child.close()

    def _receive(self, timeout_s: float = TIMEOUT_S) -> bool:
        try:
            data = self._child.read_nonblocking(65536, timeout=timeout_s)
        except pexpect.EOF:
            self.ended = True
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


def surface_program(home: Path, **options) -> Terminal:
    """The small program that shows a `TerminalSurface`; see surface_program.py."""
    return Terminal([sys.executable, SURFACE], home=home, **options)


def chat(home: Path, script: dict[str, object], *arguments: str, **options) -> Terminal:
    """`dsv4-chat` in the folder `home` with a model that says what `script` holds, see
    dsv4_mlx/scripted/script.py."""
    file = home / "script.json"
    file.write_text(json.dumps(script), encoding="utf-8")
    command = [sys.executable, "-m", "cli", "--engine", f"fake:{file}", *arguments]
    variables = {"PYTHONPATH": str(Path(__file__).parents[2])} | options.pop("variables", {})
    return Terminal(command, home=home, variables=variables, **options)
