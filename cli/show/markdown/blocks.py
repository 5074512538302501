"""Blocks of Markdown: finished ones as `MarkdownStream` gives them, and the one that is open."""

from dataclasses import dataclass, field, replace
from typing import Literal

from cli.show.markdown.lines import Container, Fence

BlockKind = Literal["paragraph", "heading", "code", "indented", "math", "table", "rule", "blank"]

# A piece fits a small screen, where it is redrawn while it grows.
PIECE_LINES = 8
PIECE_CHARACTERS = 2_000
TABLE_ROWS = 16


@dataclass(frozen=True)
class Block:
    """One block or a piece of one. The sources of all blocks, joined, are the text."""

    kind: BlockKind
    source: str
    """What the model wrote, with the empty lines before it."""
    lines: tuple[str, ...]
    """What it says, without fences and the markers of its containers; the rows of a table."""
    containers: tuple[Container, ...]
    """The quotes and items it stands in, outermost first."""
    fresh: int
    """How many of the innermost containers begin with this block."""
    gap: int | None
    """None without empty lines before it, else the number of containers around them."""
    first: bool = True
    last: bool = True
    """Pieces between the first and the last are neither."""
    info: str = ""
    """The language of code, the level of a heading."""
    head: tuple[str, ...] = ()
    """Of a table: header, dashes and the rows of its first piece, which fix its columns."""


@dataclass
class Leaf:
    """The open block."""

    kind: BlockKind
    lines: list[str] = field(default_factory=list)
    characters: int = 0
    first: bool = True
    info: str = ""
    fence: Fence | None = None
    is_moved_in: bool | None = None  # code, as far as its item is; None before the first line
    math_end: str = ""
    head: tuple[str, ...] = ()

    def twin(self) -> "Leaf":
        """A copy that grows apart from this one."""
        return replace(self, lines=self.lines.copy())

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.characters += len(line)

    @property
    def is_verbatim(self) -> bool:
        return self.kind in ("code", "math")

    @property
    def is_long(self) -> bool:
        most = TABLE_ROWS if self.kind == "table" else PIECE_LINES
        return len(self.lines) >= most or self.characters >= PIECE_CHARACTERS
