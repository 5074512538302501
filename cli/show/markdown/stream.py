"""Markdown while it is written: blocks that are finished, and the one that is still open.

The text is read line by line, and every line once. A block is the smallest thing that stands by
itself on the screen: a paragraph of an item, a heading, a table; it knows the items and quotes it
stands in. Long ones come in pieces that look like one block. What a line means is decided when it
is complete, so the blocks are the same however the text is split into deltas.
"""

from copy import copy

from cli.show.markdown import lines
from cli.show.markdown.blocks import Block, BlockKind, Leaf
from cli.show.markdown.containers import descend, goes_on
from cli.show.markdown.lines import Container

# A longer line is cut, at a space if there is one.
LINE_CHARACTERS = 2_000
# Deeper markers are text: nothing of them fits a screen.
MOST_CONTAINERS = 12


class MarkdownStream:
    """Feed it text piece by piece, then `finish`."""

    def __init__(self) -> None:
        self._partial = ""
        self._is_cut = False  # the line goes on: its beginning was taken already
        self._raw: list[str] = []  # lines since the last block
        self._leaf: Leaf | None = None
        self._containers: list[Container] = []
        self._fresh = 0
        self._gap: int | None = None
        self._began = False
        self._blocks: list[Block] = []

    def feed(self, text: str) -> list[Block]:
        """The blocks that `text` finishes."""
        *complete, rest = text.split("\n")
        for line in complete:
            self._take(self._partial + line, "\n")
            self._partial = ""
        self._partial = self._without_beginning(self._partial + rest)
        return self._taken()

    @property
    def open(self) -> str:
        """The source that belongs to no block yet."""
        return "".join(self._raw) + self._partial

    def preview(self) -> "MarkdownStream":
        """A copy to `finish` while this one goes on: the open block as it would end now, but for a
        last line that is nothing but marks so far, which could still mean anything."""
        twin = copy(self)
        if lines.is_only_marks(self._partial):
            twin._partial = ""
        twin._raw, twin._blocks = self._raw.copy(), []
        twin._containers = self._containers.copy()
        twin._leaf = self._leaf and self._leaf.twin()
        return twin

    def finish(self) -> list[Block]:
        """What was open, as finished blocks; an open fence is closed."""
        if self._partial:
            self._take(self._partial, "")
        self._partial = ""
        self._close()
        self._leave(0)
        if self._raw:
            self._emit("blank", [])
        return self._taken()

    def _taken(self) -> list[Block]:
        taken, self._blocks = self._blocks, []
        return taken

    # Lines

    def _take(self, line: str, end: str) -> None:
        rest = self._without_beginning(line)
        self._line(rest, rest + end)
        self._is_cut = False

    def _without_beginning(self, line: str) -> str:
        """The rest of a line that is too long for one; its beginning is taken."""
        start = 0
        while len(line) - start > LINE_CHARACTERS:
            most = start + LINE_CHARACTERS
            end = line.rfind(" ", start + LINE_CHARACTERS // 2, most) + 1 or most
            self._line(line[start:end], line[start:end])
            self._is_cut = True
            if self._leaf and self._leaf.lines:
                self._emit_piece(self._leaf)
            start = end
        return line[start:]

    def _line(self, line: str, raw: str) -> None:
        if self._is_cut:
            self._more_of_a_line(line, raw)
            return
        leaf = self._leaf
        depth, rest = descend(lines.detabbed(line), self._containers, leaf)
        if leaf and leaf.is_verbatim and goes_on(leaf, self._containers[depth:], rest):
            self._verbatim(leaf, rest, raw)
        elif not rest.strip():
            self._empty_line(depth, raw)
        else:
            self._in_containers(depth, rest, raw)

    def _more_of_a_line(self, line: str, raw: str) -> None:
        if self._leaf is None or self._leaf.kind == "table":
            self._close()
            self._leaf = Leaf("paragraph", first=False)
        self._raw.append(raw)
        self._grow(self._leaf, line)

    def _empty_line(self, depth: int, raw: str) -> None:
        self._close()
        self._leave(depth)
        self._raw.append(raw)
        self._gap = depth if self._gap is None else min(self._gap, depth)

    # Containers

    def _in_containers(self, depth: int, rest: str, raw: str) -> None:
        opened: list[Container] = []
        leaf, same = self._leaf, depth == len(self._containers)
        is_paragraph = leaf is not None and leaf.kind == "paragraph"
        while depth + len(opened) < MOST_CONTAINERS:
            around = [*self._containers[:depth], *opened]
            in_list = bool(around) and not around[-1].is_quote
            interrupts = is_paragraph and same and not opened
            start = lines.container_start(rest, in_list=in_list, interrupts=interrupts)
            if start is None:
                break
            opened.append(start[0])
            rest = start[1]
        is_lazy = is_paragraph and not same and not opened
        if leaf and is_lazy and lines.is_plain(rest) and not rest.lstrip().startswith("|"):
            self._raw.append(raw)  # a paragraph goes on without the markers of its containers
            self._grow(leaf, rest.strip())
            return
        if opened or not same:
            self._close()
            self._leave(depth)
            self._containers += opened
            self._fresh += len(opened)
        if rest.strip():
            self._in_leaf(rest, raw)
        else:
            self._raw.append(raw)

    def _leave(self, depth: int) -> None:
        """End the containers below `depth`; an item that is left without a word still shows."""
        if self._fresh and len(self._containers) > depth:
            self._emit("paragraph", [])
        del self._containers[depth:]
        if self._gap is not None:
            self._gap = min(self._gap, depth)

    # Blocks

    def _in_leaf(self, line: str, raw: str) -> None:
        leaf = self._leaf
        indented = lines.indent_of(line) >= 4
        if leaf and leaf.kind == "paragraph":
            if not indented and self._ends_paragraph(leaf, line, raw):
                return
        elif (
            leaf and leaf.kind == "table" and "|" in line and not indented and lines.is_plain(line)
        ):
            self._raw.append(raw)
            self._grow(leaf, line.strip())
            return
        elif indented:
            self._indented(line, raw)
            return
        if not indented and not lines.is_plain(line):
            self._close()
            self._start(line, raw)
            return
        if self._leaf is None or self._leaf.kind != "paragraph":
            self._close()
            self._leaf = Leaf("paragraph")
        self._raw.append(raw)
        self._grow(self._leaf, line.strip())

    def _ends_paragraph(self, leaf: Leaf, line: str, raw: str) -> bool:
        """Take a line that makes the open paragraph a heading, or its last line a table's."""
        level = lines.underlined_level(line)
        if level and leaf.first and leaf.lines:
            self._raw.append(raw)
            leaf.kind, leaf.info = "heading", str(level)
            self._close()
            return True
        if leaf.lines and lines.is_table_head(leaf.lines[-1], line):
            self._table(leaf, line.strip(), raw)
            return True
        return False

    def _table(self, leaf: Leaf, dashes: str, raw: str) -> None:
        header, header_raw = leaf.lines.pop(), self._raw.pop()
        if leaf.lines:
            self._close()
        self._raw += [header_raw, raw]
        self._leaf = Leaf("table", head=(header, dashes))

    def _indented(self, line: str, raw: str) -> None:
        if self._leaf is None or self._leaf.kind != "indented":
            self._close()
            self._leaf = Leaf("indented")
        self._raw.append(raw)
        self._grow(self._leaf, line[4:])

    def _start(self, line: str, raw: str) -> None:
        """A line that is a block of its own, or opens one by a mark."""
        self._raw.append(raw)
        if fence := lines.fence_start(line):
            self._leaf = Leaf("code", info=fence.info, fence=fence)
        elif found := lines.heading(line):
            self._emit("heading", [found[1]], info=str(found[0]))
        elif end := lines.math_end(line):
            self._leaf = Leaf("math", math_end=end)
            self._grow(self._leaf, line.strip())
            if end in line.strip()[2:]:
                self._close()
        else:
            self._emit("rule", [])

    def _verbatim(self, leaf: Leaf, line: str, raw: str) -> None:
        """A line of code or mathematics, or the one that ends it."""
        if leaf.fence is None:
            self._math(leaf, line, raw)
            return
        self._raw.append(raw)
        if leaf.fence.closed_by(line):
            self._close()
        else:
            # With the tabs that it has: they are the code's own.
            whole = raw.removesuffix("\n")
            columns = len(lines.detabbed(whole)) - len(leaf.fence.content(line))
            self._grow(leaf, lines.behind_columns(whole, columns))

    def _math(self, leaf: Leaf, line: str, raw: str) -> None:
        if not line.strip():
            # TeX allows no empty line here; so dollars that were meant otherwise do no harm.
            self._empty_line(len(self._containers), raw)
            return
        self._raw.append(raw)
        self._grow(leaf, line.rstrip())
        if leaf.math_end in line:
            self._close()

    def _grow(self, leaf: Leaf, line: str) -> None:
        leaf.add(line)
        if leaf.is_long:
            self._emit_piece(leaf)

    def _emit_piece(self, leaf: Leaf) -> None:
        """Hand over what there is of a long block. The last line of a paragraph stays where it may
        turn out to be the header of a table."""
        kept: tuple[list[str], list[str]] = ([], [])
        if leaf.kind == "paragraph" and len(leaf.lines) > 1 and "|" in leaf.lines[-1]:
            kept = [leaf.lines.pop()], [self._raw.pop()]
        self._emit_leaf(leaf, last=False)
        leaf.lines, self._raw = kept
        leaf.characters = sum(map(len, leaf.lines))
        leaf.first = False

    def _close(self) -> None:
        """The open block ends here."""
        leaf, self._leaf = self._leaf, None
        if leaf is None or not (leaf.lines or leaf.first or leaf.kind == "code"):
            return
        self._emit_leaf(leaf, last=True)

    def _emit_leaf(self, leaf: Leaf, *, last: bool) -> None:
        if leaf.kind == "table" and leaf.first:
            leaf.head = (*leaf.head, *leaf.lines)
        self._emit(
            leaf.kind, leaf.lines, first=leaf.first, last=last, info=leaf.info, head=leaf.head
        )

    def _emit(
        self,
        kind: BlockKind,
        said: list[str],
        *,
        first: bool = True,
        last: bool = True,
        info: str = "",
        head: tuple[str, ...] = (),
    ) -> None:
        source, self._raw = "".join(self._raw), []
        gap = self._gap if self._began else None
        containers = tuple(self._containers)
        self._blocks.append(
            Block(kind, source, tuple(said), containers, self._fresh, gap, first, last, info, head)
        )
        self._fresh, self._gap = 0, None
        self._began = True
