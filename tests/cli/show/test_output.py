"""What may reach a terminal, and what a stream of this process can take."""

import json
from io import BytesIO, TextIOWrapper

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.environment import Environment
from cli.safe import harmless, json_line
from dsv4_mlx.errors import UsageError

# Everything a model can write: any characters, control characters often.
TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\r\n\t\x07\u202e")))


@given(TEXT)
def test_harmless_text_has_no_control_characters(text: str) -> None:
    safe = harmless(text)
    assert all(char in "\t\n" or (ord(char) >= 0x20 and char != "\x7f") for char in safe)
    assert not any(0x80 <= ord(char) < 0xA0 for char in safe)
    assert safe.encode("utf-8").count(b"\n") == text.count("\n")


@given(TEXT, TEXT)
def test_text_is_made_harmless_piece_by_piece(one: str, other: str) -> None:
    assert harmless(one + other) == harmless(one) + harmless(other)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_words_of_every_script_stay_as_they_are() -> None:
    text = "Größe, naïve; 你好，世界。 שלום مرحبا – × ① 👩🏽‍🚀\n\tend"
    assert harmless(text) == text


@given(TEXT)
def test_a_json_line_is_one_harmless_line_of_the_same_text(text: str) -> None:
    line = json_line({"text": text})
    assert line.count("\n") == 1
    assert harmless(line) == line
    assert json.loads(line) == {"text": text}


def test_stdin_that_is_no_utf8_is_refused() -> None:
    environment = Environment(stdin=TextIOWrapper(BytesIO(b"caf\xe9")))
    with pytest.raises(UsageError, match="stdin must be UTF-8 text and byte 3 is not"):
        environment.read_text()


def test_stdin_is_read_as_utf8_whatever_the_locale() -> None:
    stdin = TextIOWrapper(BytesIO("Größe".encode()), encoding="latin-1")
    assert Environment(stdin=stdin).read_text() == "Größe"


def test_a_stdout_that_is_not_utf8_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    sink = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(sink, encoding="latin-1"))
    stdout = Environment().stdout
    stdout.write("é 你\n")
    stdout.flush()
    assert sink.getvalue() == "é ?\n".encode("latin-1")
