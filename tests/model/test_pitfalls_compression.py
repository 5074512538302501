"""Known pitfalls of compressed entries and who sees them: rows 8 to 12."""

from itertools import accumulate

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.sparse_attention.reference as sparse_attention
from dsv4_mlx.model.compression import Compression
from dsv4_mlx.model.compressor import Compressor
from metal_kernels.registry import plan
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op, wrap

PITFALLS = Pitfalls()
TOKENS = small.TOKENS[:40]


def assert_chunks_equal_one_call(*splits: list[int]) -> None:
    settings = small.one_layer(4, sliding_window=4)
    ours = small.model(settings, small.weights(settings))
    whole = small.logits(ours, TOKENS)
    for sizes in splits:
        np.testing.assert_allclose(
            small.in_chunks(ours, TOKENS, sizes), whole, atol=2e-5, err_msg=f"chunks {sizes}"
        )


# --- 8: the overlap with the previous window -----------------------------------------------------


def lane_dropped_every_call(patch: pytest.MonkeyPatch) -> None:
    """The first window of a call pools as if it were the first of all."""

    def make(op):
        def wrong(*arrays, origin, first_window, ratio, **options):
            origin -= first_window * ratio
            return op(*arrays, origin=origin, first_window=0, ratio=ratio, **options)

        return wrong

    replace_op(patch, "compress", make)


def lane_dropped_when_nothing_closes(patch: pytest.MonkeyPatch) -> None:
    def make(update):
        def wrong(self, raw, index_q, state):
            count = len(state.entries)
            found = update(self, raw, index_q, state)
            if len(state.entries) == count:
                end = state.position + raw.shape[1]
                closed = end // 4 * 4
                slots = (mx.arange(8) - closed) % 8 >= 4
                state.open_rows = mx.where(slots[:, None], 0, state.open_rows)
            return found

        return wrong

    wrap(patch, Compression, "take", make)


@PITFALLS.row(8, lane_dropped_every_call, lane_dropped_when_nothing_closes)
def check_windows_overlap_across_calls() -> None:
    assert_chunks_equal_one_call([1], [2], [3], [5], [7], [4], [8])


# --- 9: the bias of the position within its window -----------------------------------------------


def bias_by_buffer_row(patch: pytest.MonkeyPatch) -> None:
    def make(close):
        def wrong(self, *arrays, position, **options):
            bias = self.position_bias
            self.position_bias = mx.roll(bias, position, axis=0)
            close(self, *arrays, position=position, **options)
            self.position_bias = bias

        return wrong

    wrap(patch, Compressor, "close", make)


@PITFALLS.row(9, bias_by_buffer_row)
def check_position_bias_follows_the_absolute_position() -> None:
    assert_chunks_equal_one_call([5, 1], [6, 1], [7, 1])


# --- 10: which half of the channels the next window reads ----------------------------------------


def lanes_swapped(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        def wrong(rows, bias, *rest, **options):
            c, columns = bias.shape[1], np.arange(rows.shape[-1])
            for start in (options["kv_column"], options["gate_column"]):
                columns[start : start + c] = np.roll(columns[start : start + c], c // 2)
            bias = mx.roll(bias, c // 2, axis=1)
            return op(rows[..., mx.array(columns)], bias, *rest, **options)

        return wrong

    replace_op(patch, "compress", make)


def dominating_tokens(lane: int, token: int) -> list[int]:
    """Per entry of 12 tokens, which (token, lane) it consists of when one slot dominates all.

    Token t carries the unit vector 2t in the first lane and 2t + 1 in the second.
    """
    values, scores = np.zeros((12, 2, 32)), np.zeros((12, 2, 32))
    for t in range(12):
        values[t, 0, 2 * t] = values[t, 1, 2 * t + 1] = 1
    scores[token, lane] = 1000
    rows = np.concatenate([values.reshape(12, 64), scores.reshape(12, 64)], axis=1)
    entries = plan("cpu").ops.compress(
        mx.array(rows[None].astype(np.float32)), mx.zeros((4, 64)), mx.ones(32), mx.ones((3, 1)),
        mx.zeros((3, 1)), origin=0, first_window=0, windows=3, ratio=4, kv_column=0,
        gate_column=64, eps=1e-6, rounding="none", storage="float32",
    )  # fmt: skip
    alone = [np.flatnonzero(np.abs(entry) > 1e-3) for entry in np.array(entries)[0]]
    return [int(found[0]) if len(found) == 1 else -1 for found in alone]


@PITFALLS.row(10, lanes_swapped)
def check_first_half_feeds_the_next_entry_and_second_half_its_own() -> None:
    for lane, token, entry in ((0, 5, 2), (0, 2, 1), (1, 5, 1), (1, 2, 0)):
        expected = [-1, -1, -1]
        expected[entry] = 2 * token + lane
        assert dominating_tokens(lane, token) == expected


# --- 11: an entry is visible when its window is complete, and not before --------------------------


def _shifted_visibility(name: str, shift: int) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(op):
            def wrong(*arrays, first_position, **options):
                return op(*arrays, first_position=first_position + shift, **options)

            return wrong

        def late(tile):
            def wrong(entries, selected, first, stop, ratio):
                return tile(entries, selected, first + shift, stop + shift, ratio)

            return wrong

        replace_op(patch, "index_topk", make)
        wrap(patch, sparse_attention, "_entry_tile", late)

    plant.__name__ = name
    return plant


def positions_changed_by(ratio: int, token: int, length: int) -> list[int]:
    """Positions whose logits change when the token does, in one call and in chunks.

    Less than 1e-5 is another order of summation: the experts' rows are multiplied together.
    """
    settings = small.one_layer(ratio, sliding_window=2, index_topk=1024)
    ours = small.model(settings, small.weights(settings))
    before = small.TOKENS[:length].copy()
    after = before.copy()
    after[token] = (after[token] + 1) % small.CONFIG["vocab_size"]
    changed = [
        np.flatnonzero(np.abs(run(before) - run(after)).max(axis=1) > 1e-5).tolist()
        for run in (
            lambda ids: small.logits(ours, ids),
            lambda ids: small.in_chunks(ours, ids, [length - 3, 1]),
        )
    ]
    assert changed[0] == changed[1]
    return changed[0]


@PITFALLS.row(
    11,
    _shifted_visibility("entries_one_token_late", -1),
    _shifted_visibility("entries_one_token_early", 1),
    _shifted_visibility("the_whole_pool_visible", 10**6),
)
def check_entries_are_seen_from_their_last_token_on() -> None:
    assert positions_changed_by(4, 4, 16) == [4, 5, *range(7, 16)]
    assert positions_changed_by(128, 3, 132) == [3, 4, *range(127, 132)]


# --- 12: compressed entries take part in prefill -------------------------------------------------


def entries_hidden_by_the_mask(patch: pytest.MonkeyPatch) -> None:
    def make(join):
        def wrong(window, seen, entries, chosen):
            return join(window, seen, entries, mx.zeros_like(chosen))

        return wrong

    wrap(patch, sparse_attention, "_with_window", make)


@PITFALLS.row(12, entries_hidden_by_the_mask)
def check_prefill_reads_compressed_entries() -> None:
    """Without its compressor's values a layer says something else where only entries reach."""
    for ratio, length in ((4, 40), (128, 140)):
        settings = small.one_layer(ratio, sliding_window=4)
        tensors = small.weights(settings)
        name = "layers.0.attn.compressor.wkv.weight"
        muted = {**tensors, name: 0 * tensors[name]}
        logits, without = (
            small.logits(small.model(settings, some), small.TOKENS[:length])
            for some in (tensors, muted)
        )
        difference = np.abs(logits - without).max(axis=1)
        assert (difference[: ratio - 1] < 1e-5).all()
        assert (difference[ratio - 1 :] > 1e-3).all()


def test_chunks_cover_every_phase() -> None:
    """The splits above start calls at every place of a window."""
    starts = {start % 4 for start in accumulate([7] * 5)}
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
