"""One shell command of the person's own, with what it prints as text."""

import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cli.tools.background import VARIABLE, Background
from dsv4_mlx.device.command_buffers import inherited
from dsv4_mlx.errors import UsageError

TIMEOUT_S = 60.0
LARGEST = 1 << 20
"""Bytes of output; a command that prints more is stopped."""
_SLICE_S = 0.1  # between looks at `stopped`
_STOPPED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Ran:
    """A command that ended, or was ended."""

    text: str
    """What it printed, stdout and stderr as they came; its last line says why it was ended."""
    status: int
    """Its exit status, 128 + N for signal N as shells count."""
    left: tuple[str, ...] = ()
    """Sentences about what it left running."""


def run(
    command: str,
    folder: Path,
    timeout_s: float = TIMEOUT_S,
    *,
    stopped: Callable[[], bool] = lambda: False,
    background: Background | None = None,
) -> Ran:
    """Run `command` in `folder` without a terminal and without input.

    It is ended, with everything it started, after `timeout_s`, when it prints more than LARGEST
    bytes, and when `stopped` says so. What it leaves running is remembered by `background`, which
    ends it later. Raises UsageError when there is no shell to run it.
    """
    mark = secrets.token_hex(8)
    try:
        program = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**inherited(), VARIABLE: mark},
            # Of its own, so that it can be ended whole, and cannot reach for our terminal.
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"the command cannot be run in {folder}: {reason}.") from error
    with program:
        output, reason = _read(program, time.monotonic() + timeout_s, stopped)
        if reason:
            _end(program)
        status = program.wait()
    if reason == "time":
        reason = f"stopped after {timeout_s:g} s"
    text = _text(output, reason)
    left = background.look(program.pid, mark) if background is not None else []
    status = _STOPPED if reason else status if status >= 0 else 128 - status
    return Ran(text, status, tuple(left))


def _read(
    program: "subprocess.Popen[bytes]", deadline: float, stopped: Callable[[], bool]
) -> tuple[bytes, str]:
    """Everything until the command itself ends, and why it has to be ended ("" when it did)."""
    assert program.stdout is not None
    output = bytearray()
    os.set_blocking(program.stdout.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(program.stdout, selectors.EVENT_READ)
        while True:
            # What it left in the background may hold the pipe open for ever.
            ended = program.poll() is not None
            ready = selector.select(0 if ended else _SLICE_S)
            piece = os.read(program.stdout.fileno(), 1 << 16) if ready else b""
            output += piece
            if len(output) > LARGEST:
                return bytes(output[:LARGEST]), f"stopped after {LARGEST:,} bytes of output"
            if ended and not piece:
                return bytes(output), ""
            if ready and not piece:
                selector.unregister(program.stdout)  # closed; only its end is waited for
            if stopped():
                return bytes(output), "stopped"
            if time.monotonic() > deadline:
                return bytes(output), "time"


def _end(program: "subprocess.Popen[bytes]") -> None:
    """End the command and everything in its process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, number)
        except ProcessLookupError:
            return
        try:
            program.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            continue


def _text(output: bytes, reason: str) -> str:
    text = output.decode("utf-8", "replace").replace("\r\n", "\n")
    if not reason:
        return text
    newline = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{newline}[{reason}]\n"
