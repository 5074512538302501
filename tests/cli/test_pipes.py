"""`dsv4-chat -p` as a process between others: pipes that end, disks that are full.

These start the real program, with a scripted model.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVIL = "One \x1b[2J \x9b two \u202e three."


def write_script(folder: Path, *replies: object) -> Path:
    path = folder / "script.json"
    path.write_text(json.dumps({"replies": replies}))
    return path


def start(script: Path, arguments: str, **variables: str) -> subprocess.Popen:
    """`: | dsv4-chat arguments` in a shell, whose status is dsv4-chat's; arguments may redirect."""
    chat = f'"{sys.executable}" -m cli --engine "fake:{script}" {arguments}'
    own = {"PATH": os.environ["PATH"], "DSV4_HOME": str(script.parent), "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(
        ["/bin/sh", "-c", f": | {chat}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=own | variables,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> tuple[int, bytes, bytes]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_raw_text_is_byte_exact_in_a_pipe_whatever_the_encoding(tmp_path: Path) -> None:
    script = write_script(tmp_path, f"<think>Hm.</think>{EVIL}")
    process = start(script, "-p x --raw", PYTHONIOENCODING="latin-1")
    assert finished(process) == (0, EVIL.encode(), b"Hm.\n")


def test_a_reader_that_leaves_ends_a_long_answer_in_silence(tmp_path: Path) -> None:
    script = write_script(tmp_path, {"text": "<think>Hm.</think>endless ", "repeat": 20_000})
    process = start(script, "-p x")
    assert process.stdout.read(20) == b"endless endless endl"
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b"Hm.\n"


FULL = "dsv4-chat: stdout: No space left on device; make room, or write elsewhere with > FILE."
CLOSED = "dsv4-chat: stdout is closed; open it, or write to a file with > FILE."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-p x >/dev/full", FULL),
        ("-p x --json >/dev/full", FULL),
        ("-p x --raw >/dev/full", FULL),
        ("--help >/dev/full", FULL),
        ("config >&-", CLOSED),
        ("-p x --json >&-", CLOSED),
        ("-p x >&- <&-", CLOSED),
    ],
)
def test_an_output_that_takes_nothing_is_one_sentence(
    tmp_path: Path, arguments: str, said: str
) -> None:
    script = write_script(tmp_path, "Four.")
    status, _, err = finished(start(script, arguments))
    assert status == 1
    assert err.decode() == f"{said}\n"


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_an_answer_is_whole_though_nobody_can_read_the_notes(tmp_path: Path, stderr: str) -> None:
    script = write_script(tmp_path, "<think>Hm.</think>Four.")
    assert finished(start(script, f"-p x {stderr}")) == (0, b"Four.\n", b"")
