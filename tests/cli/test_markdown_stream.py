"""Markdown while it is written: the same blocks however it comes, and nothing lost."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from cli.markdown_stream import Block, MarkdownStream
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
