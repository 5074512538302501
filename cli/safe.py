"""Text from outside (models, files, tools, names) made harmless for a terminal.

Whatever control characters, escape sequences or invisible characters such text spells, none of them
reaches the terminal. `harmless` is for prose, where joiners and marks of many scripts belong;
`exact` is for names, paths and commands, where what is seen must be what is there.
"""

import json
import re
import unicodedata
from typing import Any

# Control pictures stand in for C0 controls; C1 controls (8-bit escape sequences on some terminals),
# characters that reorder what is already on the screen, and line ends of other systems have none.
_REPLACED = (
    (0x80, 0x9F),  # C1
    (0x2028, 0x202E),  # line and paragraph separators; bidirectional embeddings and overrides
    (0x2066, 0x206F),  # bidirectional isolates; deprecated format characters
    (0xD800, 0xDFFF),  # half of a surrogate pair has no UTF-8 form
    (0xFFF9, 0xFFFB),  # annotations, which hide text behind text
)
_HARMLESS: dict[int, int | None] = (
    {code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A, 0x0D)}
    | {0x0D: None, 0x7F: 0x2421}
    | {code: 0xFFFD for first, last in _REPLACED for code in range(first, last + 1)}
)
# More marks on one letter than any script needs draw over the neighbouring lines, and some
# terminals keep all of them in one cell.
_MOST_MARKS = 8
_MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_TOO_MANY_MARKS = re.compile(f"([{_MARKS}]{{{_MOST_MARKS}}})[{_MARKS}]+")

# Letters, symbols and marks that are drawn as nothing: fillers of scripts, the empty Braille
# pattern, the grapheme joiner, and variation selectors, which emoji in prose need.
_DRAWN_AS_NOTHING = frozenset("\u3164\u115f\u1160\uffa0\u2800\u034f") | frozenset(
    map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)


def harmless(text: str) -> str:
    """`text` without control characters except tab and newline; each is handled on its own, so the
    result is the same however a stream of text is split."""
    return text.translate(_HARMLESS)


def drawable(text: str) -> str:
    """`harmless` for a piece that is drawn as a whole: no letter carries a tower of marks."""
    return _TOO_MANY_MARKS.sub("\\1\N{REPLACEMENT CHARACTER}", harmless(text))


def exact(text: str) -> str:
    """`text` in which everything that could not be seen is spelled out, as `\\u200b`.

    Newlines are spelled out as well: a name or a command is shown on its own line.
    """
    return "".join(char if _can_be_seen(char) else _spelled(char) for char in text)


def _can_be_seen(char: str) -> bool:
    if char == " ":
        return True
    return char not in _DRAWN_AS_NOTHING and unicodedata.category(char)[0] not in "CZ"


def _spelled(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    code = ord(char)
    width = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return short or f"\\{'xuU'[(2, 4, 8).index(width)]}{code:0{width}x}"


# json.dumps escapes C0; the rest is escaped here so that a JSON line is harmless as well.
_JSON_ESCAPES = {
    code: f"\\u{code:04x}"
    for first, last in ((0x7F, 0x9F), (0x2028, 0x202E), (0x2066, 0x2069), (0xD800, 0xDFFF))
    for code in range(first, last + 1)
}


def json_line(record: dict[str, Any]) -> str:
    """One JSON object on one line, free of raw control characters."""
    return json.dumps(record, ensure_ascii=False).translate(_JSON_ESCAPES) + "\n"
