"""/copy: the last answer or code in it, and a sentence where there is none."""

from pathlib import Path

import pytest

from cli.talk import clipboard
from tests.cli.running import run
from tests.cli.scripted import opening, write_chat_folder

ANSWER = "a</think>See\n\n```c\nint x;\n```\n\nand\n\n```\ny\n\n"


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []

    def copy(text: str) -> str:
        texts.append(text)
        return "copied"

    monkeypatch.setattr(clipboard, "copy", copy)
    return texts


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("/copy", ANSWER.partition("</think>")[2], "[copied]"),
        ("/copy code", "y\n", "[code block 2 of 2, 2 lines: copied]"),
        ("/copy code 1", "int x;", "[code block 1 of 2, c, 1 line: copied]"),
        ("/copy  code  2", "y\n", "[code block 2 of 2, 2 lines: copied]"),
        ("/copy code 3", None, "there is no code block 3; the last answer has 2."),
        ("/copy code 0", None, "/copy code takes a whole number from 1 on, got '0'."),
        ("/copy code x", None, "/copy code takes a whole number from 1 on, got 'x'."),
        ("/copy that", None, "/copy takes code, code N or nothing, got 'that'."),
        ("/copy code 1 2", None, "/copy takes code, code N or nothing, got 'code 1 2'."),
    ],
)
def test_what_is_copied(
    tmp_path: Path, copied: list[str], command: str, text: str | None, said: str
) -> None:
    folder = write_chat_folder(tmp_path)
    done = run("--model", folder, typed=f"go\n{command}\n", open_model=opening(ANSWER))
    assert copied == ([] if text is None else [text])
    assert said in done.stderr


def test_there_is_nothing_to_copy(tmp_path: Path, copied: list[str]) -> None:
    folder = write_chat_folder(tmp_path)
    done = run(
        "--model",
        folder,
        typed="/copy code\ngo\n/copy code\n",
        open_model=opening("a</think>No code."),
    )
    assert "there is no answer to copy yet." in done.stderr
    assert "the last answer has no code block; /copy copies all of it." in done.stderr
    assert not copied
