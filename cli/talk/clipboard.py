"""Copying a text out of the program: by the desktop's own tool, else by asking the terminal."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import TextIO

from dsv4_mlx.device.command_buffers import inherited
from dsv4_mlx.errors import UsageError

MOST_BYTES = 16 << 20
MOST_TERMINAL_BYTES = 74_994
"""Base64 of so many bytes and the sequence around it stay below the 100,000 characters that
terminals commonly take."""
_PATIENCE_S = 5.0

# A tool, and the variable without which it reaches no desktop.
_TOOLS = (
    (("pbcopy",), None),
    (("wl-copy",), "WAYLAND_DISPLAY"),
    (("xclip", "-selection", "clipboard"), "DISPLAY"),
    (("xsel", "--clipboard", "--input"), "DISPLAY"),
)


def copy(
    text: str, variables: Mapping[str, str] | None = None, terminal: TextIO | None = None
) -> str:
    """Copy `text`; how, for a note. UsageError, one sentence, when nothing here can.

    `variables` and `terminal`, where the person looks, are this process's unless given.
    """
    variables = os.environ if variables is None else variables
    content = text.encode("utf-8", "replace")
    if len(content) > MOST_BYTES:
        raise UsageError(f"the text has {len(content):,} bytes, too many for a clipboard.")
    for command, needed in _TOOLS:
        if _reaches_the_person(command[0], needed, variables) and _runs(
            command, content, variables
        ):
            return f"copied with {command[0]}"
    return _ask_terminal(content, sys.__stdout__ if terminal is None else terminal)


def _reaches_the_person(tool: str, needed: str | None, variables: Mapping[str, str]) -> bool:
    # Over ssh, pbcopy would fill the clipboard of a Mac that nobody sits at.
    if needed is None and variables.get("SSH_CONNECTION"):
        return False
    is_there = shutil.which(tool, path=variables.get("PATH", "")) is not None
    return is_there and (needed is None or bool(variables.get(needed)))


def _runs(command: tuple[str, ...], content: bytes, variables: Mapping[str, str]) -> bool:
    tool = shutil.which(command[0], path=variables.get("PATH", ""))
    assert tool is not None
    given = inherited(variables)
    try:
        done = subprocess.run(
            [tool, *command[1:]],
            input=content,
            # xclip stays in the background and would keep our streams open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=given | {"LC_CTYPE": "UTF-8"} if tool.endswith("pbcopy") else given,
            timeout=_PATIENCE_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _ask_terminal(content: bytes, terminal: TextIO | None) -> str:
    """OSC 52: the terminal fills its clipboard, if it knows and allows that, and does not answer.

    The text goes out as base64, so nothing of it is a control character.
    """
    if terminal is None or not terminal.isatty():
        raise UsageError(
            "nothing here can copy: expected pbcopy, wl-copy, xclip or xsel; install one, "
            "or use /export."
        )
    if len(content) > MOST_TERMINAL_BYTES:
        raise UsageError(
            f"the text has {len(content):,} bytes and a terminal takes {MOST_TERMINAL_BYTES:,}; "
            "install pbcopy, wl-copy, xclip or xsel, or use /export."
        )
    terminal.write(f"\x1b]52;c;{base64.b64encode(content).decode('ascii')}\x07")
    terminal.flush()
    return "sent to the terminal, which copies it if it allows that"
