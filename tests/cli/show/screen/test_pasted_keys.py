"""What a terminal sends for a paste, in whatever pieces, is sent to the model as it is."""

import contextlib
import random
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input

from cli.show.theme import DARK
from tests.cli.show.screen.test_terminal import Running

MARKED = "\x1b[200~{}\x1b[201~"
TEXTS = [
    '"""A docstring.\n\nMore of it.\n"""\n\nimport os\n',
    '"""',
    '"""open',
    '""" twice """',
    "/quit",
    "/etc/hosts\n/etc/passwd",
    "/usr/bin/env python\n" * 20,
    "!rm -r .",
    "  indented\n    more\n\n\n",
    "\n\nfirst",
    "\ttab\tseparated\t",
    "\x03\x04\x1a control \x1b[A \x00 characters \x7f",
    "@nothing-is-called-so",
    "a \\@backslash and \\\\@two",
    "{}[]()'`$(echo)`",
    "naïve 你好 e\u0301 😀 \u202e\u200b",
    "x" * 5_000,
    "line\n" * 3_000,
    "\U00100000 private \U0010fffd",
    "=" * 999 + "\n",
    "\\",
    " ",
]


def submitted(folder: Path, *pieces: bytes) -> list[str]:
    """What arrives when a person's terminal sends `pieces`; whatever they leave in the input is
    cleared by Ctrl-C, so that Ctrl-D leaves. A closed terminal would make what is not taken yet a
    draft."""
    with create_pipe_input() as keys:
        running = Running(keys, folder / "history", DARK)

        def control() -> list[str]:
            for piece in (*pieces, b"\x03\x04"):
                keys.send_bytes(piece)
            return list(running.surface.submissions())

        return running.surface.run(control)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_paste_is_a_message_as_it_is(text: str, tmp_path: Path) -> None:
    marked = MARKED.format(text.replace("\n", "\r")).encode()
    cuts = sorted(random.Random(text).sample(range(len(marked)), min(5, len(marked))))
    pieces = [marked[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    sent = submitted(tmp_path, *pieces, b"\r")
    if not text.strip():
        assert sent == []
        return
    (message,) = sent
    assert not (message.startswith(("/", "!")) and type(message) is str)
    with contextlib.suppress(ImportError):
        from cli.mentions import unescaped

        message = unescaped(message)
    assert message == text


def test_a_paste_while_it_asks_is_no_answer(tmp_path: Path) -> None:
    from cli.show.surface import Question

    answers: list[str] = []
    with create_pipe_input() as keys:
        running = Running(keys, tmp_path / "history", DARK)

        def controller(text: str) -> None:
            if text != "go":
                return
            running.screen.when("sure?", lambda: keys.send_text(MARKED.format("y") + "n\r\x04"))
            answers.append(running.surface.ask(Question("sure?")))

        assert running.submitted("go\r", controller=controller) == ["go", "y"]
    assert answers == ["n"]
