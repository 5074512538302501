"""Text from outside cannot act on a terminal, and cannot hide from a reader where that matters."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.safe import drawable, exact, harmless

TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\r\n\t\x07\u202e\u0301")))
# What moves the cursor, starts a sequence, reorders text or is no text at all.
ACTING = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


@given(TEXT)
def test_harmless_text_acts_on_nothing(text: str) -> None:
    assert not ACTING.difference(b"\t\n").intersection(map(ord, harmless(text)))
    harmless(text).encode("utf-8")


def test_an_escape_sequence_becomes_something_to_read() -> None:
    assert harmless("\x1b]52;c;cm0=\x07\x9b2J") == "␛]52;c;cm0=␇\ufffd2J"


@given(TEXT)
def test_drawable_text_carries_no_tower_of_marks(text: str) -> None:
    run = longest = 0
    for char in drawable(text + "a" + "\u0301" * 500):
        run = run + 1 if unicodedata.combining(char) else 0
        longest = max(longest, run)
    assert longest <= 8


def test_marks_that_scripts_need_stay() -> None:
    for text in ("Việt Nam", "e\u0301\u0323", "שָׁלוֹם", "नमस्ते", "👩🏽‍🚀", "می‌خواهم"):
        assert drawable(text) == text


@given(TEXT)
def test_exact_text_hides_nothing(text: str) -> None:
    for char in exact(text):
        assert char == " " or unicodedata.category(char)[0] not in "CZ"


def test_exact_text_spells_out_what_a_name_could_hide() -> None:
    assert exact("report\u202etxt.exe") == "report\\u202etxt.exe"
    assert exact("a\u200bb\x1b[2J\nc\ud800\U000e0041") == "a\\u200bb\\x1b[2J\\nc\\ud800\\U000e0041"
    assert exact("Größe 你好.txt") == "Größe 你好.txt"


@pytest.mark.parametrize(
    "char",
    [*"\u3164\u115f\u1160\uffa0\u2800\u034f\ufe00\ufe0f", "\U000e0100", "\U000e01ef"],
)
def test_exact_text_spells_out_what_is_drawn_as_nothing(char: str) -> None:
    assert exact(f"a{char}b") in (f"a\\u{ord(char):04x}b", f"a\\U{ord(char):08x}b")
    assert harmless(f"a{char}b") == f"a{char}b"
