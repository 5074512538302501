"""Random documents of ordinary Markdown, and what markdown-it reads in them."""

import random

from markdown_it import MarkdownIt

WORDS = ["alpha", "beta", "*delta*", "`eps`", "zeta.", "1.", "eta_x"]
LEAVES = ["paragraph", "lines", "code"]
KINDS = [*LEAVES, "heading", "underlined", "rule", "table", "quote", "bullets", "numbers"]

Leaf = tuple[str, str, str, tuple[str, ...]]
"""Kind, info, text, and the markers of the containers around it."""


def document(seed: int) -> str:
    """Blocks in quotes in lists in quotes, with and without empty lines between them."""
    return "\n".join(_blocks(random.Random(seed), 0, 4)) + "\n"


def _blocks(chance: random.Random, depth: int, most: int) -> list[str]:
    lines: list[str] = []
    for _ in range(chance.randint(1, most)):
        block = _block(chance, depth)
        # Where a table meets other lines GitHub goes by the letter, we by the borders.
        if lines and (chance.random() < 0.7 or "|" in lines[-1] + block[0]):
            lines.append("")
        lines += block
    return lines


def _block(chance: random.Random, depth: int) -> list[str]:
    match chance.choice(KINDS if depth < 3 else LEAVES):
        case "paragraph":
            return [_words(chance)]
        case "lines":
            return [f"x {_words(chance)}" for _ in range(chance.randint(1, 3))]
        case "heading":
            return [f"{'#' * chance.randint(1, 6)} {_words(chance)}"]
        case "underlined":
            return [f"x {_words(chance)}", chance.choice(["===", "---"])]
        case "rule":
            return [chance.choice(["***", "---", "* * *", "_____"])]
        case "code":
            fence = chance.choice(["```", "~~~", "````"])
            code = ["code", "", "  more", "- x", "# y", "> z", "| a |"]
            body = chance.choices(code, k=chance.randint(0, 4))
            return [fence + chance.choice(["", "python"]), *body, fence]
        case "table":
            return _table(chance)
        case "quote":
            return [f"> {line}" if line else ">" for line in _blocks(chance, depth + 1, 3)]
        case "bullets":
            return _list(chance, depth, [chance.choice("-*+")] * 3)
        case _:
            first = chance.randint(1, 3)
            return _list(chance, depth, [f"{first + number}." for number in range(3)])


def _words(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 6)))


def _table(chance: random.Random) -> list[str]:
    columns = chance.randint(2, 3)
    rows = [[_words(chance) for _ in range(columns)] for _ in range(chance.randint(0, 3))]
    drawn = [f"| {' | '.join(row)} |" for row in [["h"] * columns, *rows]]
    return [drawn[0], "|" + "---|" * columns, *drawn[1:]]


def _list(chance: random.Random, depth: int, markers: list[str]) -> list[str]:
    lines: list[str] = []
    for marker in markers[: chance.randint(1, 3)]:
        first, *more = _blocks(chance, depth + 1, 2)
        lines.append(f"{marker} {first}")
        lines += [f"{' ' * len(marker)} {line}" if line else "" for line in more]
        lines += [""] if chance.random() < 0.4 else []
    while not lines[-1]:
        lines.pop()
    return lines


def leaves(source: str) -> list[Leaf]:
    """What markdown-it takes `source` for."""
    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": 200}).enable("table")
    found: list[Leaf] = []
    markers: list[str] = []
    rows: list[list[str]] = []
    tokens = parser.parse(source)
    for place, token in enumerate(tokens):
        around = tuple(markers)
        match token.type:
            case "blockquote_open":
                markers.append(">")
            case "list_item_open":
                markers.append(token.info + token.markup)
            case "blockquote_close" | "list_item_close":
                markers.pop()
            case "fence":
                found.append(("code", token.info, token.content.rstrip("\n"), around))
            case "code_block":
                found.append(("indented", "", token.content.rstrip("\n"), around))
            case "hr":
                found.append(("rule", "", "", around))
            case "paragraph_open":
                found.append(("paragraph", "", _lines(tokens[place + 1].content), around))
            case "heading_open":
                level, text = token.tag[1:], _lines(tokens[place + 1].content)
                found.append(("heading", level, text, around))
            case "table_open":
                rows = []
            case "tr_open":
                rows.append([])
            case "th_open" | "td_open":
                rows[-1].append(tokens[place + 1].content)
            case "table_close":
                found.append(("table", "", repr(rows), around))
    return found


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n"))
