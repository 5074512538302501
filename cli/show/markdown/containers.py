"""Which of the open quotes and items a line stands in."""

from collections.abc import Sequence

from cli.show.markdown import lines
from cli.show.markdown.blocks import Leaf
from cli.show.markdown.lines import Container


def descend(line: str, containers: Sequence[Container], leaf: Leaf | None) -> tuple[int, str]:
    """How many of the open containers `line` stands in, and what is left of it; `leaf` is the open
    block."""
    is_forgotten = leaf is not None and leaf.is_verbatim and leaf.is_moved_in is False
    for depth, container in enumerate(containers):
        if is_forgotten and not container.is_quote:
            return depth, line  # its indent is its own, see `goes_on`
        if container.is_quote:
            rest = lines.after_quote(line)
            if rest is None:
                return depth, line
            line = rest
        elif line.strip() and lines.indent_of(line) < container.indent:
            return depth, line
        else:
            line = line[container.indent :]
    return len(containers), line


def goes_on(code: Leaf, left: Sequence[Container], line: str) -> bool:
    """Whether open code goes on with a line that does not stand in the last containers, `left`.

    Strictly it ends; but models forget to move code in, and then do so from its first line on.
    """
    if any(container.is_quote for container in left):
        return False
    if code.is_moved_in is None and line.strip():
        code.is_moved_in = not left
    return not left or not code.is_moved_in
