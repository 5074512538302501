"""Emphasis, links, mathematics and what is not Markdown, as the text that is drawn."""

import pytest
from hypothesis import given

from cli.safe import drawable
from cli.show.markdown.inline import inline_text, mended
from cli.show.theme import DARK, PLAIN
from tests.cli.markdown_texts import MARKDOWN


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("*a* **b** ~~c~~ `d`", "a b c `d`"),
        ("snake_case_name and 2*3*4", "snake_case_name and 2*3*4"),
        ("2**3**4 and f(x)*(a*b)", "2**3**4 and f(x)*(a*b)"),
        ("这是**重点**内容", "这是重点内容"),
        ("(*so*) and **so**.", "(so) and so."),
        ("[docs](https://x.y/z)", "docs (https://x.y/z)"),
        ("[*docs*](https://x.y 'title')", "docs (https://x.y)"),
        ("<https://x.y>", "https://x.y"),
        ("<me@x.y>", "me@x.y"),
        ("[https://x.y](https://x.y)", "https://x.y"),
        ("[https://bank](https://evil)", "https://bank (https://evil)"),
        ("[a](javascript:alert)", "[a](javascript:alert)"),
        ("![a cat](cat.png)", "[image: a cat] (cat.png)"),
        ("a <b>bold</b> &amp; a<br>break", "a <b>bold</b> & a\nbreak"),
        ("one\ntwo\\\nthree", "one\ntwo\nthree"),
        ("\\*not\\* emphasis", "*not* emphasis"),
        ("$a_1 * b_2 * c_3$", "$a_1 * b_2 * c_3$"),
        ("\\(a_1 \\\\ b\\_2\\)", "\\(a_1 \\\\ b\\_2\\)"),
        ("\\[x_1*y*z\\] and *so*", "\\[x_1*y*z\\] and so"),
        ("$$x_1*y*z$$", "$$x_1*y*z$$"),
        ("for $5 *or* $10", "for $5 or $10"),
        ("US$ 5 *and* 6 $", "US$ 5 and 6 $"),
        ("&#27;[2J &#x202e;", "\ufffd[2J \ufffd"),
    ],
)
def test_what_is_drawn(source: str, text: str) -> None:
    assert inline_text(source, DARK).plain == text


def test_plain_keeps_the_marks_of_emphasis() -> None:
    source = "*a* **b _c_** ~~d~~ `e`"
    assert inline_text(source, PLAIN).plain == source


def test_no_link_is_hidden_behind_a_name() -> None:
    text = inline_text("[bank](https://evil.example)", DARK)
    assert not any(span.style.link for span in text.spans if not isinstance(span.style, str))


@given(MARKDOWN)
def test_whatever_is_drawn_is_drawable(source: str) -> None:
    text = inline_text(source, DARK).plain
    assert drawable(text) == text


@pytest.mark.parametrize(
    ("beginning", "shown"),
    [
        ("a **bo", "a **bo**"),
        ("a **bold**", "a **bold**"),
        ("a **bold** and", "a **bold** and"),
        ("a **", "a"),
        ("a *", "a"),
        ("a `co", "a `co`"),
        ("a `", "a "),
        ("a `x ** y", "a `x ** y`"),
        ("a `x ** y` b", "a `x ** y` b"),
        ("plain", "plain"),
    ],
)
def test_what_is_open_looks_as_it_will(beginning: str, shown: str) -> None:
    assert mended(beginning) == shown
