"""Pictures of the screen: what the script draws from a terminal's cells."""

import pytest

pyte = pytest.importorskip("pyte")

from docs.make_screens import Screen, svg  # noqa: E402

pytestmark = pytest.mark.terminal


def drawn(written: bytes) -> str:
    screen = Screen(80, 4)
    pyte.ByteStream(screen).feed(written)
    return svg(screen, "a test", "test")


def test_a_picture_holds_the_text_and_its_styles() -> None:
    picture = drawn(b"plain \x1b[2mdim\x1b[0m \x1b[1;36mbold\x1b[0m \xe4\xbd\xa0\xe5\xa5\xbd!")
    assert all(f">{text}<" in picture for text in ("dim", "bold"))
    assert "你好!" in picture
    assert "font-weight: bold" in picture


def test_a_picture_fetches_no_font() -> None:
    picture = drawn(b"text")
    assert "url(http" not in picture
    assert "@font-face" not in picture
