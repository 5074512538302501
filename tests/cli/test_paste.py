"""Chips for large pastes, blocks of quotes, and text that can be sent."""

from cli.screen.paste import Pastes, sendable
from cli.screen.quotes import is_open, unquoted

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


def test_a_pasted_character_never_becomes_an_older_paste() -> None:
    pastes = Pastes()
    chip = pastes.take(LARGE)
    assert pastes.expand(pastes.take(f"a{chip}b")) == "a\ufffdb"


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
