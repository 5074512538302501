"""Replays of a trace of experts: counts by hand, and the best that any cache can do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import expert_cache
from benchmarks.expert_cache import best, calls_by_layer, replayed, table
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.weights.expert_trace import Choice, TraceWriter, read_trace


def reply(*tokens: tuple[int, ...], layer: int = 0) -> list[Choice]:
    return [Choice(layer, number, 1, experts) for number, experts in enumerate(tokens)]


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    write = TraceWriter(tmp_path / "trace.csv")
    write(3, np.array([[5, 1], [0, 7]], np.uint32))
    write(4, np.array([[2, 3], [3, 2]], np.uint32))
    write(3, np.array([[9, 8]], np.uint32))
    write.close()
    assert list(read_trace(tmp_path / "trace.csv")) == [
        Choice(3, 0, 2, (5, 1)),
        Choice(3, 1, 2, (0, 7)),
        Choice(4, 0, 2, (2, 3)),
        Choice(4, 1, 2, (3, 2)),
        Choice(3, 2, 1, (9, 8)),
    ]


@pytest.mark.parametrize("text", ["", "layer,token\n", "layer,token,together,experts\n1,2,x,3\n"])
def test_what_is_no_trace_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"other\.csv.*trace"):
        list(read_trace(path))


def test_a_trace_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected to write a trace"):
        TraceWriter(tmp_path / "absent" / "trace.csv")


def test_the_expert_used_longest_ago_makes_room() -> None:
    layers = calls_by_layer(reply((0, 1), (2, 0), (1, 2), (0, 2)))
    found = replayed(layers, 2)
    assert (found.hits, found.misses, found.tokens) == (0 + 1 + 1 + 1, 2 + 1 + 1 + 1, 4)
    assert replayed(layers, 3).hits == 1 + 2 + 2


def test_replies_begin_with_the_experts_of_a_prompts_last_tokens() -> None:
    prompt = [Choice(0, 0, 3, (4, 5)), Choice(0, 1, 3, (0, 1)), Choice(0, 2, 3, (2, 0))]
    layers = calls_by_layer([*prompt, *reply((0, 2), (4, 0))])
    assert len(layers[0]) == 3  # the prompt is one call
    assert replayed(layers, 2).hits == 2 + 1
    assert replayed(layers, 6).hits == 4
    assert best(layers, 2).hits == 3  # a token's two and one of the next


def test_layers_have_slots_of_their_own() -> None:
    both = [*reply((0, 1), (0, 1)), *reply((2, 3), (2, 3), layer=1)]
    found = replayed(calls_by_layer(both), 2)
    assert (found.hits, found.misses, found.tokens) == (4, 4, 2)
    assert found.misses_per_token == 2


calls = st.lists(
    st.lists(
        st.lists(st.integers(0, 9), min_size=2, max_size=2, unique=True), min_size=1, max_size=3
    ),
    max_size=30,
)


@given(calls, st.integers(2, 10))
@settings(max_examples=60)
def test_no_cache_is_better_than_the_best(texts: list[list[list[int]]], slots: int) -> None:
    choices = [Choice(0, 0, len(text), tuple(experts)) for text in texts for experts in text]
    layers = calls_by_layer(choices)
    found, most = replayed(layers, slots), best(layers, slots)
    assert found.hits <= most.hits
    assert found.hits + found.misses == most.hits + most.misses
    assert replayed(layers, slots - 1).hits <= found.hits  # more slots find as much at least


def test_the_table_has_a_line_for_each_size_and_the_expected_wait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write = TraceWriter(tmp_path / "trace.csv")
    for _ in range(4):
        write(0, np.array([[0, 1]], np.uint32))
    write.close()
    options = ["--slots", "2,8", "--expert-bytes", "1000000000", "--disk", "2"]
    expert_cache.main([str(tmp_path / "trace.csv"), *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 layers, 4 tokens of replies"
    # Two of eight uses miss, half an expert a token, a quarter of a second of the disk each.
    assert lines[-1] == "| 2 | 75.0% | 75.0% | 0.50 | 2.0 | 0.250 |"
    assert len(lines) == 5  # no more slots than experts
    assert next(iter(table({0: []}, [2]))).count("|") == 5
