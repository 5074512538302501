"""Markdown while it is written: the same blocks however it comes, and nothing lost."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.show.markdown.blocks import PIECE_CHARACTERS, TABLE_ROWS, Block
from cli.show.markdown.lines import cells
from cli.show.markdown.stream import MarkdownStream
from tests.cli.documents import Leaf, document, leaves
from tests.cli.markdown_texts import ANSWER, MARKDOWN


def blocks_of(deltas: Iterable[str]) -> list[Block]:
    stream = MarkdownStream()
    return [block for delta in deltas for block in stream.feed(delta)] + stream.finish()


def split(text: str, places: Iterable[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


PLACES = st.lists(st.integers(0, 10_000), max_size=20)


@given(MARKDOWN, PLACES)
def test_any_split_gives_the_same_blocks(text: str, places: list[int]) -> None:
    assert blocks_of(split(text, places)) == blocks_of([text])


def test_character_by_character_gives_the_same_blocks() -> None:
    assert blocks_of(ANSWER) == blocks_of([ANSWER])


@given(MARKDOWN)
def test_the_blocks_are_the_text(text: str) -> None:
    assert "".join(block.source for block in blocks_of([text])) == text


@given(MARKDOWN, PLACES)
def test_finished_blocks_and_the_open_one_are_the_text_so_far(text: str, places: list[int]) -> None:
    stream, finished, so_far = MarkdownStream(), "", ""
    for delta in split(text, places):
        finished += "".join(block.source for block in stream.feed(delta))
        so_far += delta
        assert finished + stream.open == so_far


@given(MARKDOWN, PLACES)
def test_a_preview_leaves_the_stream_alone(text: str, places: list[int]) -> None:
    stream, blocks = MarkdownStream(), []
    for delta in split(text, places):
        blocks += stream.feed(delta)
        stream.preview().finish()
    assert blocks + stream.finish() == blocks_of([text])


def as_leaves(blocks: Iterable[Block]) -> list[Leaf]:
    """Blocks in the terms of `documents.leaves`: pieces joined, and no empty paragraphs."""
    found: list[Leaf] = []
    for block in blocks:
        text = "\n".join(block.lines).rstrip("\n")
        if block.kind == "table":
            text = repr([cells(row) for row in (block.head[0], *block.head[2:])])
        markers = tuple(container.marker for container in block.containers)
        if not block.first:
            text = "\n".join(filter(None, [found.pop()[2], text]))
        found.append((block.kind, block.info, text, markers))
    return [leaf for leaf in found if leaf[0] != "blank" and leaf[::2][:2] != ("paragraph", "")]


@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 400, 50)])
def test_structure_is_what_markdown_it_reads(seeds: range) -> None:
    for seed in seeds:
        text = document(seed)
        assert as_leaves(blocks_of([text])) == leaves(text), f"seed {seed}:\n{text}"


def kinds(text: str) -> list[tuple[str, str]]:
    return [(block.kind, "|".join(block.lines)) for block in blocks_of([text])]


def test_code_in_an_item_goes_on_where_its_lines_are_not_moved_in() -> None:
    assert kinds("1. Run:\n   ```sh\nls\n   ```\n2. Look.\n") == [
        ("paragraph", "Run:"),
        ("code", "ls"),
        ("paragraph", "Look."),
    ]


def test_an_item_that_is_moved_in_too_far_is_an_item() -> None:
    blocks = blocks_of(["- a\n      - b\n"])
    assert [len(block.containers) for block in blocks] == [1, 2]


def test_a_line_without_a_border_ends_a_table() -> None:
    assert kinds("|a|b|\n|-|-|\n|1|2|\nThat is it.\n") == [
        ("table", "|1|2|"),
        ("paragraph", "That is it."),
    ]


def test_displayed_mathematics_is_one_block() -> None:
    for text in ("$$\na_b\n$$", "\\[ a_b\n= c\n\\]", "\\begin{align}\n*a\n\\end{align}", "$$x$$"):
        assert [kind for kind, _ in kinds(f"{text}\nThen.\n")] == ["math", "paragraph"]


def test_dollars_that_open_nothing_end_with_their_paragraph() -> None:
    assert kinds("$$ is the shell's number.\n\nAnd so on.\n")[1] == ("paragraph", "And so on.")


def test_an_open_fence_is_closed_at_the_end() -> None:
    (block,) = blocks_of(["```py\nx = 1"])
    assert (block.kind, block.lines, block.last) == ("code", ("x = 1",), True)


def test_an_empty_item_still_shows() -> None:
    blocks = blocks_of(["- \n- a\n"])
    assert [(block.lines, block.fresh) for block in blocks] == [((), 1), (("a",), 1)]


@pytest.mark.parametrize(
    "text",
    [
        "```\n" + "x = 1\n" * 100,
        "- item\n" * 100,
        "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 100,
        "a line\n" * 100,
        "word " * 5_000,
        "x" * 20_000,
        "> > - " * 1_000,
        "$$\n" + "x\n" * 100,
        "    code\n" * 100,
    ],
    ids=lambda text: repr(text[:8]),
)
def test_the_open_part_stays_small(text: str) -> None:
    stream, longest = MarkdownStream(), 0
    for start in range(0, len(text), 7):
        stream.feed(text[start : start + 7])
        longest = max(longest, len(stream.open))
    assert longest < 2 * PIECE_CHARACTERS
    assert len(stream.open.splitlines()) <= TABLE_ROWS + 2


def test_pieces_of_a_table_know_its_first_rows() -> None:
    blocks = blocks_of(["| a | b |\n|---|---|\n" + "".join(f"|{n}|x|\n" for n in range(40))])
    assert [(block.first, block.last) for block in blocks] == [
        (True, False),
        (False, False),
        (False, True),
    ]
    assert len({block.head for block in blocks}) == 1
    assert sum(len(block.lines) for block in blocks) == 40


def test_a_table_ends_the_paragraph_of_an_item_that_it_is_not_in() -> None:
    assert kinds("- item\n| a | b |\n|---|---|\n| 1 | 2 |\n") == [
        ("paragraph", "item"),
        ("table", "| 1 | 2 |"),
    ]


def test_code_that_is_not_moved_into_its_item_keeps_its_indent() -> None:
    stream = MarkdownStream()
    text = "1. see\n\n   ```python\ndef f():\n    return 1\n```\n"
    code = [*stream.feed(text), *stream.finish()][-1]
    assert code.lines == ("def f():", "    return 1")
