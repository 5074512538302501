"""Code in colours that go on from piece to piece."""

import pytest
from rich.console import Console

from cli.show.markdown.highlight import Highlighter

CONSOLE = Console(width=80, _environ={})
CODE = {
    "python": 'def f(x):\n    """One.\n\n    Two: if x:\n    """\n    return {"a": 1}  # last\n'
    * 3,
    "c": "/* one\n * if two\n * return\n */\nint main(void) {\n\treturn 0; // end\n}\n" * 3,
    "js": "const a = `one\nif ${b} two`;\n/*\n for\n*/\nfor (;;) {}\n" * 3,
    "html": "<p>a</p>\n<!-- one\n<b>two</b>\n-->\n<i>b</i>\n" * 3,
    "rust": "/// one\nfn f<'a>(x: &'a str) -> String {\n    /* if\n    x */\n    x.into()\n}\n" * 3,
    "json": '{"a": [1, true, null],\n "b": "x"}\n' * 3,
    "no-such-language": "if x: return\n" * 3,
}


def styles(text) -> list[tuple[str, str]]:
    """Each character with the colour it has; spaces show none."""
    segments = text.render(CONSOLE)
    return [(char, str(s.style)) for s in segments for char in s.text if not char.isspace()]


@pytest.mark.parametrize("language", CODE)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_are_coloured_like_the_whole(language: str, size: int) -> None:
    lines = tuple(CODE[language].splitlines())
    whole = [styles(line) for line in Highlighter(language, "ansi_dark").lines(lines)]
    pieces = Highlighter(language, "ansi_dark")
    parts = [
        styles(line)
        for start in range(0, len(lines), size)
        for line in pieces.lines(lines[start : start + size])
    ]
    assert parts == whole
