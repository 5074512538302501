"""Outputs that a model could write to harm a terminal or the program: seeded, so repeatable."""

import random
from collections.abc import Callable

ESCAPES = [
    *(
        "\x1b[2J",
        "\x1b[H",
        "\x1b[38;5;201m",
        "\x1b[?1049h",
        "\x1b[6n",
        "\x1b[>c",
        "\x1bc",
        "\x1b(0",
    ),
    *("\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x07", "\x1b]8;;http://evil/\x1b\\x\x1b]8;;\x1b\\"),
    *("\x1bP+q\x1b\\", "\x1b_G\x1b\\", "\x1b^x\x1b\\", "\x1b[200~", "\x1b[8;1;1t", "\x1b#8"),
    *("\x9b2J", "\x9d52;c;eA==\x9c", "\x90q\x9c", "\x85", "\x08" * 9, "\r", "\x0b", "\x0c"),
    *("\x07", "\x7f", "\x0e", "\x00", "\u202e", "\u2066", "\u2069", "\u200b", "\u200d"),
    *("\ufeff", "\U000e0041", "\u2028"),
]
INFOS = [
    *("python", "py\x1b[38;5;201m", "{.python .numberLines}", "`", "x" * 300, "console", "html"),
    *("diff", "c++", "../../etc/passwd", "\u202e", "python title=`a`", "{", "}", ",", "\ud800"),
]
CODE = [
    *("x = '''open", "/* never closed", "'" * 60, '"\\' * 40, "<script>" * 9, "{{{{" * 20),
    *("\t" * 12 + "x", "#!/bin/sh", "$((((" * 9, "\\" * 99, "0x" + "f" * 200, "a" * 900),
    *("é" * 80, "👩\u200d🚀" * 30, "你" * 99),
]
INLINE = [
    *("*", "**", "_", "`", "[", "](", ")", "![", "~~", "$", "\\(", "\\[", "&#27;", "&#x9b;"),
    *("&#x202e;", "&#xd800;", "&NotExist;", "<b>", "<br>", "</p>", "<script>", "<!--", "|"),
    *("<javascript:x>", "[a](javascript:alert)", "[bank](http://evil/\u202e)", "![](data:x)"),
    *("\u0301" * 40, "<a:b@c>", "\\"),
]


def hostile(seed: int) -> str:
    """One output; a few of many kinds, one after another."""
    chance = random.Random(seed)
    kinds = chance.choices(KINDS, k=chance.randint(1, 3))
    return chance.choice(["", "\n", "\n\n", "- ", "> "]).join(kind(chance) for kind in kinds)


def _escapes(chance: random.Random) -> str:
    return "".join(chance.choices(ESCAPES, k=chance.choice([3, 30, 200])))


def _inline(chance: random.Random) -> str:
    return "".join(chance.choices([*INLINE, "a", " ", "word ", "\n"], k=chance.randint(1, 120)))


def _repeated(chance: random.Random) -> str:
    return chance.choice(INLINE) * chance.choice([10, 100, 500])


def _long_line(chance: random.Random) -> str:
    unit = chance.choice(["x", "word ", "你好", "\u200b", "e\u0301", "\t", " ", "👩🏽‍🚀", "\ufffd"])
    return unit * chance.choice([100, 2_500])


def _nested(chance: random.Random) -> str:
    marker = chance.choice(["> ", ">", "- ", "1. ", "> - ", "* 1) "])
    if chance.random() < 0.5:
        return marker * 1_000 + "deep\n"
    return "".join(f"{'  ' * depth}{marker}deep\n" for depth in range(40))


def _table(chance: random.Random) -> str:
    columns, rows = chance.choice([(1, 20), (3, 10), (30, 2), (120, 1)])
    cell = chance.choice(["x", "", "你好", "`a|b`", "**b", "\\|", "$|x|$", "word " * 9])
    row = "|" + f" {cell} |" * columns
    ragged = "| x " * chance.randint(0, columns + 3)
    return "\n".join([row, "|" + "---|" * columns, *[row] * rows, ragged, "", ""])


def _code(chance: random.Random) -> str:
    fence = chance.choice(["```", "~~~", "`" * 200, "   ```"])
    lines = chance.choices(CODE, k=chance.randint(0, 12))
    return "\n".join([f"{fence}{chance.choice(INFOS)}", *lines, chance.choice(["", fence, "```"])])


def _broken_bytes(chance: random.Random) -> str:
    data = chance.randbytes(chance.randint(1, 200))
    return data.decode("utf-8", chance.choice(["replace", "surrogateescape"]))


def _any_characters(chance: random.Random) -> str:
    return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randint(1, 200)))


KINDS: list[Callable[[random.Random], str]] = [
    *(_escapes, _inline, _repeated, _long_line, _nested, _table, _code),
    *(_broken_bytes, _any_characters),
]
