"""Copying a text: the desktop's tool when it is there, else the terminal, else a sentence."""

import base64
import re
from pathlib import Path

import pytest

from cli.talk.clipboard import MOST_BYTES, MOST_TERMINAL_BYTES, copy
from dsv4_mlx.errors import UsageError
from tests.cli.running import Stream

TEXT = "one\ntwo é \x1b[2J"


def install(folder: Path, tool: str, status: int = 0) -> dict[str, str]:
    """Variables with a tool on the path that stores what it gets, and how it was called."""
    script = folder / tool
    script.write_text(
        f'#!/bin/sh\nread_all=$(/bin/cat; echo .)\nprintf "%s" "$read_all" > "{folder}/{tool}.in"\n'
        f'echo "$@" > "{folder}/{tool}.args"\nexit {status}\n'
    )
    script.chmod(0o755)
    return {"PATH": str(folder), "DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("pbcopy", ""),
        ("wl-copy", ""),
        ("xclip", "-selection clipboard"),
        ("xsel", "--clipboard --input"),
    ],
)
def test_a_tool_gets_the_bytes(tmp_path: Path, tool: str, arguments: str) -> None:
    assert copy(TEXT, install(tmp_path, tool), Stream()) == f"copied with {tool}"
    assert (tmp_path / f"{tool}.in").read_text() == TEXT + "."
    assert (tmp_path / f"{tool}.args").read_text() == arguments + "\n"


def test_the_next_tool_is_tried_when_one_fails(tmp_path: Path) -> None:
    install(tmp_path, "wl-copy", status=1)
    assert copy(TEXT, install(tmp_path, "xsel"), Stream()) == "copied with xsel"


def test_a_tool_without_its_desktop_is_not_asked(tmp_path: Path) -> None:
    variables = install(tmp_path, "xclip") | {"DISPLAY": ""}
    with pytest.raises(UsageError, match="nothing here can copy"):
        copy(TEXT, variables, Stream())
    assert not (tmp_path / "xclip.in").exists()


def test_over_ssh_the_far_macs_clipboard_is_not_filled(tmp_path: Path) -> None:
    variables = install(tmp_path, "pbcopy") | {"SSH_CONNECTION": "a 1 b 22"}
    terminal = Stream(terminal=True)
    assert copy(TEXT, variables, terminal).startswith("sent to the terminal")
    assert not (tmp_path / "pbcopy.in").exists()


def test_the_terminal_gets_one_sequence_with_nothing_of_the_text_in_the_open() -> None:
    terminal = Stream(terminal=True)
    copy(TEXT, {"PATH": ""}, terminal)
    written = re.fullmatch(r"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07", terminal.getvalue())
    assert written is not None
    assert base64.b64decode(written[1]).decode() == TEXT


def test_nothing_is_written_where_no_terminal_is() -> None:
    stream = Stream()
    with pytest.raises(UsageError, match="expected pbcopy, wl-copy, xclip or xsel"):
        copy(TEXT, {"PATH": ""}, stream)
    assert stream.getvalue() == ""


def test_sizes_are_bounded() -> None:
    terminal = Stream(terminal=True)
    copy("x" * MOST_TERMINAL_BYTES, {"PATH": ""}, terminal)
    assert len(terminal.getvalue()) <= 100_000
    with pytest.raises(UsageError, match="a terminal takes"):
        copy("x" * (MOST_TERMINAL_BYTES + 1), {"PATH": ""}, terminal)
    with pytest.raises(UsageError, match="too many"):
        copy("x" * (MOST_BYTES + 1), {"PATH": ""}, terminal)
