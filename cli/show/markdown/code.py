"""The code of an answer, exactly as the model wrote it."""

from dataclasses import dataclass

from cli.show.markdown.blocks import Block
from cli.show.markdown.stream import MarkdownStream


@dataclass(frozen=True)
class Code:
    """What stands in one fence, without the line end before the fence that closes it."""

    text: str
    language: str

    @property
    def lines(self) -> int:
        """How many there are."""
        return self.text.count("\n") + 1 if self.text else 0


def code_blocks(text: str) -> list[Code]:
    """The fenced blocks of Markdown in their order, found as they are drawn."""
    stream = MarkdownStream()
    found: list[Code] = []
    pieces: list[Block] = []
    for block in (*stream.feed(text), *stream.finish()):
        if block.kind == "code":
            pieces.append(block)
            if block.last:
                found.append(_joined(pieces))
                pieces = []
    return found


def _joined(pieces: list[Block]) -> Code:
    """One block from its pieces. A piece that ends within a line has a source without its end."""
    text = ""
    for piece in pieces:
        if piece.lines:
            text += "\n".join(piece.lines) + "\n" * piece.source.endswith("\n")
    return Code(text.removesuffix("\n"), pieces[0].info.partition(" ")[0])
