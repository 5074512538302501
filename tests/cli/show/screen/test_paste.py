"""Pasted text is text: chips for large pastes, stand-ins for what would mean something if typed."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cli.attachments import expand
from cli.show.screen.paste import Pastes, sendable
from cli.show.screen.quotes import is_open, submitted, unquoted
from cli.show.surface import Verbatim

LARGE = "\n".join(f"line {number}" for number in range(2000))


def test_a_large_paste_is_one_character_with_a_label() -> None:
    pastes = Pastes()
    chip = pastes.take(LARGE + "\n")
    assert len(chip) == 1
    assert pastes.labels(f"see {chip}!") == "see [pasted 2,000 lines]!"
    assert pastes.expand(f"see {chip}!") == f"see {LARGE}\n!"


def test_a_long_line_is_a_chip_as_well() -> None:
    pastes = Pastes()
    assert pastes.labels(pastes.take("x" * 1001)) == "[pasted 1,001 characters]"


def test_a_small_paste_stays_text_with_plain_line_ends() -> None:
    assert Pastes().take("one\r\ntwo\rthree") == "one\ntwo\nthree"


def test_two_pastes_are_two_chips_and_the_same_one_is_one() -> None:
    pastes = Pastes()
    first, second, again = pastes.take(LARGE), pastes.take(LARGE + "x"), pastes.take(LARGE)
    assert first == again != second


def test_a_pasted_character_never_becomes_another_paste() -> None:
    pastes = Pastes()
    early = pastes.take("a\U00100000b")
    chip = pastes.take(LARGE)
    late = pastes.take(f"a{chip}b")
    assert pastes.expand(early) == pastes.labels(early) == "a\U00100000b"
    assert pastes.expand(late) == pastes.labels(late) == f"a{chip}b"


def test_bytes_that_were_no_text_can_be_sent() -> None:
    assert sendable("a\udcffb 😀") == "a\ufffdb 😀"


def test_quotes_are_open_until_they_are_closed() -> None:
    assert [is_open(text) for text in ('"""', '"""a', '"""a\nb"""', '""""""', 'a """')] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_the_message_is_what_stands_between_the_quotes() -> None:
    assert unquoted('"""\na\n\nb\n"""') == "a\n\nb"
    assert unquoted('"""a"""') == "a"
    assert unquoted(' "quoted" ') == ' "quoted" '


@pytest.mark.parametrize(
    ("typed", "sent", "is_message"),
    [
        ("/help", "/help", False),
        ("!ls", "!ls", False),
        ('"""/help"""', "/help", True),
        (" /help", " /help", True),
        ("hello", "hello", True),
    ],
)
def test_only_a_typed_character_begins_a_command(typed: str, sent: str, is_message: bool) -> None:
    text = submitted(typed, Pastes())
    assert (text, isinstance(text, Verbatim)) == (sent, is_message)


@pytest.mark.parametrize("text", ["/quit", "!rm -r .", '"""doc"""', '"""open', "\\@x", "\\\\@x @y"])
def test_what_is_put_back_is_the_same_message_again(text: str, tmp_path: Path) -> None:
    pastes = Pastes()
    put_back = pastes.literal(text)
    assert pastes.labels(put_back) == text
    again = submitted(put_back, pastes)
    assert isinstance(again, Verbatim)
    assert expand(again, tmp_path, len).text == text


# Any paste at all

CHARACTERS = st.one_of(
    st.sampled_from(
        ['"', '"""', "/", "!", "@", "\\", "\\@", "\n", " ", "\t", "a", "é", "\x1b", "\0"]
    ),
    st.characters(exclude_characters="\r"),
    st.sampled_from(["\U00100000", "\U0010fffd", "\ud800", "x" * 1001, "\n" * 10]),
)
PASTES = st.lists(CHARACTERS, max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "see ", "x"]), PASTES), min_size=1, max_size=3))
@example([("", '"""Doc.\n\nx = 1\n')])
@example([("", "/etc/hosts is wrong")])
@example([("", "  indented\n\n")])
@example([("", "\\@x \\\\@y")])
@example([("", '""'), ("", '"')])
@example([("", "\\"), ("", "@x")])
def test_what_is_pasted_is_sent_as_it_is(pieces: list[tuple[str, str]]) -> None:
    pastes = Pastes()
    typed = "".join(before + pastes.take(pasted) for before, pasted in pieces)
    whole = "".join(before + pasted for before, pasted in pieces)
    assume(not re.search(r'(?<!\S)@"?[/~]', whole))  # names a folder that every machine has
    assert not is_open(typed)
    text = submitted(typed, pastes)
    assert isinstance(text, Verbatim)
    with contextlib.suppress(UnicodeEncodeError):
        whole.encode()
        assert expand(text, Path("/nowhere"), len).text == whole
        assert pastes.labels(typed) == whole or len(typed) < len(whole)
    kept = sendable(whole)  # half a surrogate pair can neither be kept nor sent
    assert pastes.expand(pastes.restored(pastes.parts(typed))) == kept
    elsewhere = Pastes()
    again = elsewhere.restored(pastes.parts(typed))
    assert elsewhere.expand(again) == kept
    assert isinstance(submitted(again, elsewhere), Verbatim)
