"""What other systems write into files, pipes and editors, and outputs that take nothing."""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from cli.app import main
from cli.attachments import expand
from cli.environment import Environment, _process_input, _process_output
from cli.once.oneshot import read_message
from cli.options import Options
from cli.show.plain import PlainSurface
from cli.show.screen.editor import edited
from cli.standard_output import checked, closed_output, let_go
from tests.cli.running import Stream, run
from tests.cli.scripted import opening, write_chat_folder

MARK = b"\xef\xbb\xbf"
TEXTS = ["hello", "a\nb\n\nc", "é 你好 \U0001f600", "  indented\n\tby a tab", "a \ufeff b", "x\ry"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


# What comes in


def stdin(data: bytes) -> Environment:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    return Environment(stdin=stream, stdout=Stream(), stderr=Stream(), variables={})


def from_a_pipe(data: bytes, folder: Path) -> str:
    message = read_message(Options(), stdin(data))
    assert message is not None
    return message.text


def from_a_pipe_before_a_question(data: bytes, folder: Path) -> str:
    message = read_message(Options(prompt="?"), stdin(data))
    assert message is not None
    return message.text.removesuffix("\n\n?")


def from_an_attached_file(data: bytes, folder: Path) -> str:
    (folder / "file.txt").write_bytes(data)
    text = expand("@file.txt", folder, len).text
    return text.split("[file content begin]\n")[1].split("\n[file content end]")[0]


def from_the_editor(data: bytes, folder: Path) -> str:
    (folder / "saved").write_bytes(data)
    text = edited("", {"EDITOR": f"cp {folder / 'saved'}", "PATH": os.environ["PATH"]})
    assert text is not None
    return text


def from_lines(data: bytes, folder: Path) -> str:
    """What a person or a program types on plain lines, between quotes."""
    mark = MARK if data.startswith(MARK) else b""
    environment = stdin(mark + b'"""' + data.removeprefix(mark) + b'"""\n')
    environment.stdin.reconfigure(newline=None)  # type: ignore[attr-defined]
    return next(PlainSurface(environment).submissions())


ENTRIES = (from_a_pipe, from_a_pipe_before_a_question, from_an_attached_file, from_the_editor)


@pytest.mark.parametrize("mark", [MARK, b""], ids=["mark", "none"])
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_is_the_same_however_it_was_saved(
    tmp_path: Path, text: str, entry: Callable[[bytes, Path], str], ends: bytes, mark: bytes
) -> None:
    saved = mark + f"{text}\n".encode().replace(b"\n", ends)
    assert entry(saved, tmp_path) == text


@pytest.mark.parametrize("mark", [MARK, b""], ids=["mark", "none"])
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("text", [text for text in TEXTS if "\r" not in text])
def test_lines_are_the_same_however_they_come(
    tmp_path: Path, text: str, ends: bytes, mark: bytes
) -> None:
    saved = mark + text.encode().replace(b"\n", ends)
    assert from_lines(saved, tmp_path).strip() == text.strip()


@pytest.mark.parametrize("data", [MARK, MARK + b"\r\n", b"\r\n\r\n", MARK + b" \r\n"])
def test_marks_and_line_ends_alone_are_no_message(folder: Path, data: bytes) -> None:
    environment = stdin(data)
    assert main(["--model", str(folder)], environment=environment) == 1
    assert "the message is empty" in environment.stderr.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", ["a\n".encode("utf-16"), b"\xff\xfeabc", b"abc\xff", b"\xed\xa0\x80"]
)
def test_other_encodings_are_named_in_a_sentence(folder: Path, text: bytes) -> None:
    environment = stdin(text)
    assert main(["--model", str(folder)], environment=environment) == 2
    said = environment.stderr.getvalue()  # type: ignore[attr-defined]
    assert said.count("\n") == 1 and "stdin must be UTF-8 text" in said


def test_an_input_that_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    with open(os.open(tmp_path / "written", os.O_WRONLY | os.O_CREAT), "rb", closefd=True) as raw:
        environment = stdin(b"")
        environment.stdin = io.TextIOWrapper(
            io.BufferedReader(io.FileIO(raw.fileno(), "rb", closefd=False))
        )
        assert main(["--model", str(folder)], environment=environment) == 2
    assert "stdin cannot be read" in environment.stderr.getvalue()  # type: ignore[attr-defined]


def test_pipes_that_answer_with_an_error_are_waited_for() -> None:
    """As some programs hand them on; a long answer, or a short wait, would end in one."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    with open(reading) as source, open(writing, "w") as target:
        assert _process_input(source) is source and _process_output(target) is target
        assert os.get_blocking(reading) and os.get_blocking(writing)


# What goes out


def full() -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")


OUTPUTS = {
    "full": (full, "dsv4-chat: stdout: No space left on device"),
    "closed": (closed_output, "dsv4-chat: stdout is closed"),
}
MODES = (
    ("-p", "x"),
    ("-p", "x", "--json"),
    ("-p", "x", "--raw"),
    ("-p", "x", "--no-stream"),
    ("-p", "x", "--no-stream", "--json"),
    ("-p", "x", "--reasoning", "hide"),
    ("doctor",),
    ("doctor", "--json"),
    ("config",),
    ("config", "--path"),
    ("--version",),
    ("--version", "--json"),
    ("--help",),
    ("--plain",),
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("output", "mode"), list(itertools.product(OUTPUTS, MODES)), ids=lambda value: "".join(value)
)
def test_an_output_that_takes_nothing_is_one_sentence_in_every_mode(
    folder: Path, output: str, mode: tuple[str, ...]
) -> None:
    make, sentence = OUTPUTS[output]
    stream = make()
    plain = mode == ("--plain",)
    environment = Environment(
        stdin=Stream("x\ny\n" if plain else "", terminal=plain),
        stdout=checked(stream),
        stderr=Stream(),
        variables={"DSV4_HOME": os.environ["DSV4_HOME"], "TERM": "dumb"},
    )
    try:
        arguments = ["--model", str(folder), *mode]
        status = main(arguments, environment=environment, open_model=opening("</think>Four."))
    finally:
        let_go(stream)
        stream.close()
    said = environment.stderr.getvalue()  # type: ignore[attr-defined]
    lines = [line for line in said.splitlines() if "dsv4-chat:" in line]
    assert status == 1
    assert len(lines) == 1 and lines[0].removeprefix("> ").startswith(sentence)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_answer_that_nobody_could_read_is_kept(folder: Path) -> None:
    environment = Environment(
        stdin=Stream("x\ny\n", terminal=True),
        stdout=checked(full()),
        stderr=Stream(),
        variables={"DSV4_HOME": os.environ["DSV4_HOME"], "TERM": "dumb"},
    )
    arguments = ["--model", str(folder), "--plain"]
    assert main(arguments, environment=environment, open_model=opening("</think>Four.")) == 1
    (kept,) = Path(os.environ["DSV4_HOME"], "sessions").glob("*.jsonl")
    assert '"text": "x"' in kept.read_text() and '"y"' not in kept.read_text()
    environment.stdout.close()


class Unheard(Stream):
    """A stderr that takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode[0] == "-p"], ids="".join)
def test_notes_that_nobody_can_read_stop_nothing(folder: Path, mode: tuple[str, ...]) -> None:
    heard = run("--model", folder, *mode, open_model=opening("Hm.</think>Four."))
    environment = Environment(
        stdin=Stream(),
        stdout=Stream(),
        stderr=Unheard(),
        variables={"DSV4_HOME": os.environ["DSV4_HOME"], "TERM": "xterm"},
    )
    arguments = ["--model", str(folder), *mode]
    assert main(arguments, environment=environment, open_model=opening("Hm.</think>Four.")) == 0
    said = environment.stdout.getvalue()  # type: ignore[attr-defined]
    if "--json" in mode:  # which has times in it
        assert len(said.splitlines()) == len(heard.stdout.splitlines())
    else:
        assert said == heard.stdout


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits for the end of a pipe here."""
    monkeypatch.setattr(Environment, "stdin_stays_silent", lambda self, seconds: False)
    yield
