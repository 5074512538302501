"""What one line of Markdown can be: a marker, a fence, a heading, a row of a table.

CommonMark's rules with GitHub's tables, and mathematics as models write it. A line is looked at
without its end and without the containers it stands in.
"""

import re
from dataclasses import dataclass

_MARGIN = re.compile(r"(?:[ \t]|>|[-+*]|\d{1,9}[.)])*")
_QUOTE = re.compile(r" {0,3}> ?")
_ITEM = re.compile(r"( *)([-+*]|(\d{1,9})[.)])( +(?=\S)| *$)")
_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ ]+(.*?))?(?:[ ]+#+)?[ ]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+) *")
_RULE = re.compile(r" {0,3}([-_*])(?: *\1){2,} *")
_DELIMITER = re.compile(r" {0,3}\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *")
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_ONLY_MARKS = re.compile(r"[-*+#>`~|=:_$\\ \t]*(?:\d{1,9}[.)]?)? *")
_ENVIRONMENT = re.compile(r" *\\begin\{([A-Za-z]+\*?)\}")


@dataclass(frozen=True)
class Container:
    """A quote or a list item: what a line stands in."""

    marker: str
    """`>`, or the item's marker as the model wrote it, `-` or `12.`."""
    indent: int
    """Columns that a line of an item is moved in by."""

    @property
    def is_quote(self) -> bool:
        return self.marker == ">"


@dataclass(frozen=True)
class Fence:
    """What opened a block of code, and so what closes it."""

    indent: int
    marks: str
    info: str

    def closed_by(self, line: str) -> bool:
        """Whether `line` is at least as many of the same marks, alone."""
        found = _FENCE.fullmatch(line)
        return bool(found and found[2].startswith(self.marks) and not found[3].strip())

    def content(self, line: str) -> str:
        """`line` without the indent that the fence has itself."""
        return line[min(self.indent, indent_of(line)) :]


def detabbed(line: str) -> str:
    """`line` with the tabs of its margin as spaces: columns decide what stands in what."""
    margin = _MARGIN.match(line)
    if margin is None or "\t" not in margin[0]:
        return line
    return margin[0].expandtabs(4) + line[margin.end() :]


def behind_columns(line: str, columns: int) -> str:
    """`line` without its first columns, its tabs as they are; half a tab is spaces."""
    column = 0
    for place, character in enumerate(line):
        if column >= columns:
            return " " * (column - columns) + line[place:]
        column += 4 - column % 4 if character == "\t" else 1
    return " " * (column - columns)


def indent_of(line: str) -> int:
    """Leading spaces."""
    return len(line) - len(line.lstrip(" "))


def after_quote(line: str) -> str | None:
    """What follows a quote's mark, None where there is none."""
    found = _QUOTE.match(line)
    return line[found.end() :] if found else None


def container_start(line: str, *, in_list: bool, interrupts: bool) -> tuple[Container, str] | None:
    """The container that `line` opens, and what stands in it.

    `interrupts`: a paragraph is open, which an empty item or one that counts from elsewhere than 1
    does not end. In a list an item may be moved in too far; models do that.
    """
    rest = after_quote(line)
    if rest is not None:
        return Container(">", 0), rest
    item = _ITEM.match(line)
    if item is None or is_rule(line) or (len(item[1]) > 3 and not in_list):
        return None
    content = line[item.end() :]
    if interrupts and (not content or item[3] not in (None, "1")):
        return None
    # Five spaces and more are one that separates and code that is indented by the others.
    gap = len(item[4]) if content and len(item[4]) <= 4 else 1
    indent = len(item[1]) + len(item[2]) + gap
    return Container(item[2], indent), line[indent:]


def fence_start(line: str) -> Fence | None:
    """The fence that `line` opens."""
    found = _FENCE.fullmatch(line)
    if found is None or ("`" in found[2] and "`" in found[3]):
        return None
    return Fence(len(found[1]), found[2], found[3].strip())


def heading(line: str) -> tuple[int, str] | None:
    """Level and text of a heading."""
    found = _HEADING.fullmatch(line)
    return (len(found[1]), (found[2] or "").strip()) if found else None


def underlined_level(line: str) -> int | None:
    """The level that `line`, below a paragraph, makes the paragraph a heading of."""
    found = _UNDERLINE.fullmatch(line)
    return None if found is None else 1 if found[1][0] == "=" else 2


def is_rule(line: str) -> bool:
    """Whether `line` is a thematic break."""
    return _RULE.fullmatch(line) is not None


def math_end(line: str) -> str | None:
    """What ends the displayed mathematics that `line` opens and leaves open or ends at its end."""
    text = line.strip()
    environment = _ENVIRONMENT.match(line)
    if environment:
        end = f"\\end{{{environment[1]}}}"
    elif text.startswith("\\["):
        end = "\\]"
    elif text.startswith("$$") and not text.startswith("$$$"):
        end = "$$"
    else:
        return None
    # What goes on after its end is a paragraph with mathematics in it.
    return end if end not in text[2:] or text.index(end, 2) + len(end) == len(text) else None


def is_only_marks(line: str) -> bool:
    """Whether the beginning of a line says nothing yet."""
    return _ONLY_MARKS.fullmatch(line) is not None


def is_table_head(header: str, line: str) -> bool:
    """Whether `line` is the row of dashes below `header`."""
    return (
        "|" in line
        and _DELIMITER.fullmatch(line) is not None
        and len(cells(header)) == len(cells(line))
    )


def cells(row: str) -> list[str]:
    """The texts between the borders of a row."""
    row = row.strip()
    row = row[1:] if row.startswith("|") else row
    found = _CELL_BORDER.split(row)
    if len(found) > 1 and not found[-1].strip():
        found.pop()
    return [cell.strip().replace("\\|", "|") for cell in found]


def is_plain(line: str) -> bool:
    """Whether it is no block of its own and opens none by a mark."""
    return not (fence_start(line) or heading(line) or is_rule(line) or math_end(line))
