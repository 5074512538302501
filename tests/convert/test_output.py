"""Output that is full, closed or read by nobody: one sentence on stderr and status 1 everywhere."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from convert.app import main
from convert.screen import Screen
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE
from tests.convert.small import SMALL

ROOT = Path(__file__).parents[2]
NEEDS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
PRINTING = {
    "help": ["--help"],
    "version": ["--version"],
    "help of verify": ["verify", "--help"],
    "dry run": ["{source}", "{new}", "--dry-run"],
    "dry run, JSON": ["{source}", "{new}", "--dry-run", "--json"],
    "fit": ["{source}", "{new}", "--fit", "64GB", "--json"],
    "convert": ["{source}", "{new}", "--json"],
    "verify": ["verify", "{out}", "--json"],
    "inspect": ["inspect", "{out}"],
    "inspect, JSON": ["inspect", "{source}", "--json"],
    "inspect, an error": ["inspect", "absent", "--json"],
    "calibrate": ["calibrate", "{source}", "{text}", "-o", "{new}.safetensors", "--json"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("places")
    write_tiny_checkpoint(folder / "source", SMALL)
    (folder / "text").write_text("some words that are measured. " * 9)
    assert main([str(folder / "source"), str(folder / "out")]) == 0
    return {name: str(folder / name) for name in ("source", "out", "text")}


@contextmanager
def full() -> Iterator[io.TextIOBase | None]:
    with open("/dev/full", "w") as stream:
        yield stream


@contextmanager
def unread() -> Iterator[io.TextIOBase | None]:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        yield stream


@contextmanager
def closed() -> Iterator[io.TextIOBase | None]:
    yield None  # as Python has it when the shell's >&- closed it


BAD = {
    "full": pytest.param(full, "cannot be written", marks=NEEDS_FULL),
    "unread": pytest.param(unread, "Nobody reads the output"),
    "closed": pytest.param(closed, "is closed"),
}


@pytest.mark.parametrize(("output", "words"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", PRINTING)
def test_output_that_takes_nothing(
    command, output: Callable, words, places, tmp_path, monkeypatch, capsys
):
    words_given = [word.format(new=tmp_path / "new", **places) for word in PRINTING[command]]
    with output() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(words_given) == 1
        monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    if command == "inspect, an error":  # which is what there was to say
        assert "is not a folder" in error[0]
        return
    assert words in error[0]
    if command in ("convert", "fit"):
        assert "unfinished, continue it with --resume" in error[0]
        assert main([*words_given[:2], "--resume"]) == 0
        assert (tmp_path / "new" / CONVERSION_FILE).is_file()


@pytest.mark.parametrize("output", [pytest.param(full, marks=NEEDS_FULL), unread, closed])
@pytest.mark.parametrize("options", [[], ["--json"], ["--recipe", "q4"], ["--dry-run"]])
def test_notes_that_nobody_can_read_stop_nothing(output, options, places, tmp_path, monkeypatch):
    with output() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert main([places["source"], str(tmp_path / "new"), *options]) == 0
        assert main(["inspect", "absent"]) == 1
        monkeypatch.undo()
    assert (tmp_path / "new" / CONVERSION_FILE).is_file() is ("--dry-run" not in options)


@NEEDS_FULL
def test_a_terminal_that_is_gone_stops_nothing(monkeypatch):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        screen = Screen()
        screen.begin(100)
        screen.advance(50)
        screen.say("a line")
        screen.end()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shell(command: str, places: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    program = f'"{sys.executable}" -m convert'
    return subprocess.run(
        ["bash", "-c", command.format(convert=program, **places)],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip


@NEEDS_FULL
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{convert} --help > /dev/full", "cannot be written (No space left on device)"),
        ("{convert} inspect '{out}' >&-", "is closed"),
        ("{convert} inspect '{out}' | true; exit ${{PIPESTATUS[0]}}", "Nobody reads"),
    ],
)
def test_a_process_of_its_own_says_it_too(command, said, places):
    """What Python does at exit with what it could not write is another status and a word of its
    own."""
    done = shell(command, places)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_no_file_takes_the_place_of_a_closed_stream(places, tmp_path):
    """Else what is printed later is written into it."""
    done = shell(f"{{convert}} '{{source}}' '{tmp_path}/new' <&- >&- 2>&-", places)
    assert done.returncode == 0
    assert main(["verify", str(tmp_path / "new")]) == 0
