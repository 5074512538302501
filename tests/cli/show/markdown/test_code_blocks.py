"""Code taken out of answers: exactly what stands between the fences, found as it is drawn."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.show.markdown.code import Code, code_blocks
from tests.cli.markdown_texts import ANSWER, MARKDOWN


@dataclass(frozen=True)
class Written:
    """An answer, and the code that was put into it."""

    answer: str
    code: tuple[Code, ...]


CODE_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "",
                    " ",
                    "x = 1",
                    "\tcc -o a a.c",
                    "    return 1",
                    "  \ty",
                    "~~~",
                    "- item",
                    "> q",
                ),
                *("1. one", "# no heading", "|a|b|", "$$", "\\[", "你好", "a\tb", "trailing  "),
                *("long " * 900, "y" * 5000),
            ]
        ),
        st.text("ab \t`#>-", max_size=12),
    ),
    max_size=20,
)
LANGUAGES = st.sampled_from(["", "python", "c++", "make"])
PROSE = st.sampled_from(
    ["", "Text.", "# Title", "- item\n- other", "> quote", "| a |\n|---|\n| b |"]
)


@st.composite
def fenced(draw: st.DrawFn, margin: str) -> tuple[str, Code]:
    """A fenced block behind `margin` on each line, and its code."""
    lines = draw(CODE_LINES)
    language = draw(LANGUAGES)
    mark = draw(st.sampled_from("`~"))
    longest = max((len(line) - len(line.lstrip(mark)) for line in map(str.strip, lines)), default=0)
    fence = mark * max(3, longest + 1)
    whole = [f"{fence}{language}", *lines, fence]
    text = "".join(f"{margin}{line}\n" for line in whole)
    return text, Code("\n".join(lines), language)


@st.composite
def answers(draw: st.DrawFn) -> Written:
    """Prose and code in turns; a block may stand in an item, and the last may be left open."""
    parts, codes = [], []
    for _ in range(draw(st.integers(0, 4))):
        parts.append(f"{draw(PROSE)}\n\n")
        shape = draw(st.sampled_from(["plain", "item", "quote", "moved"]))
        margin = {"item": "   ", "quote": "> "}.get(shape, "")
        text, code = draw(fenced(margin))
        opening = {"item": "1. see\n\n", "moved": "1. see\n\n   "}.get(shape, "")
        if shape == "moved" and not (code.text and not code.text.startswith((" ", "\t", "\n"))):
            opening = ""  # the first line tells whether code was moved in
        parts.append(opening + text)
        codes.append(code)
    parts.append(f"\n{draw(PROSE)}")
    return Written("".join(parts), tuple(codes))


@settings(max_examples=60)
@given(answers())
def test_code_is_found_whole(written: Written) -> None:
    assert tuple(code_blocks(written.answer)) == written.code


@settings(max_examples=60)
@given(MARKDOWN)
def test_any_text_has_some(text: str) -> None:
    for code in code_blocks(text):
        assert all(line.strip(" \t>") in text for line in code.text.split("\n"))


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ("no code", []),
        ("```\n```", [""]),
        ("```py\na\n  b", ["a\n  b"]),
        ("````md\n```py\nx\n```\n````\n", ["```py\nx\n```"]),
        ("all:\n\n```make\nall:\n\tcc\n```\n~~~\nb\n~~~", ["all:\n\tcc", "b"]),
        ("1. see\n\n   ```python\ndef f():\n    return 1\n```\n", ["def f():\n    return 1"]),
        ("- a\n\t```\n\tb\n\t\tc\n\t```\n", ["b\n\tc"]),
        ("inline ```a``` only", []),
    ],
)
def test_shapes(answer: str, texts: list[str]) -> None:
    assert [code.text for code in code_blocks(answer)] == texts


def test_an_answer_as_models_write_it() -> None:
    (code,) = code_blocks(ANSWER)
    assert code.language == "python"
    assert code.lines == 5
    assert code.text.startswith('def ordered(xs):\n    """Smallest')
