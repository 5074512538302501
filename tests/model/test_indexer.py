"""The lightning indexer inside a model: its scores, its choice, and when it may be skipped."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import LayerCache, layout_for
from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.model.indexer import Indexer
from dsv4_mlx.model.numerics import Numerics
from metal_kernels.registry import plan
from metal_kernels.shared.formats import load_stored
from tests.model import small
from tests.oracle import v4_numpy as v4


def pair(topk: int, numerics: Numerics = Numerics.PLAIN):
    """The attention module of a single CSA layer, and the oracle's view of that layer."""
    settings = small.one_layer(4, index_topk=topk)
    tensors = small.weights(settings)
    attention = small.model(settings, tensors, numerics).layers[0].self_attn
    official = numerics is Numerics.OFFICIAL
    return attention, v4.Layer(settings, tensors, "layers.0.", 4, False, official)


def inputs(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.standard_normal((size, 48)), random.standard_normal((size, 32))


class Selected:
    """What an indexer selects for every query, and what the oracle does from the same vectors."""

    def __init__(self) -> None:
        self.found: list[list[int]] = []
        self.expected: list[list[int]] = []
        self.margins: list[float] = []

    def add(self, chosen: mx.array, vectors: tuple[mx.array, ...], first: int, topk: int) -> None:
        """The entries [1, S, k] of queries from `first` on; queries, keys and head weights."""
        self.found += [[w for w in row if w >= 0] for row in chosen[0].tolist()]
        q, keys, weights = (np.array(a[0].astype(mx.float32), np.float64) for a in vectors)
        scores = v4.index_scores(q, keys, weights * (q.shape[1] * q.shape[2]) ** -0.5)
        visible = v4.compressed_visible(first + len(q), 4)[first:]
        rows, margins = v4.select_top_k(np.where(visible, scores, -np.inf), topk)
        self.expected += [row.tolist() for row in rows]
        self.margins += margins.tolist()

    def add_nothing(self, count: int) -> None:
        """So many queries before the first entry."""
        self.found += [[] for _ in range(count)]
        self.expected += [[] for _ in range(count)]
        self.margins += [np.inf] * count


def selected(indexer: Indexer, x: np.ndarray, qr: np.ndarray, sizes: list[int]) -> Selected:
    """Entries each query selects, in calls of these sizes."""
    x32, qr32 = (mx.array(a[None].astype(np.float32)) for a in (x, qr))
    raw = mx.concatenate([indexer.kv_proj(x32), indexer.gate_proj(x32)], axis=-1)
    padding = mx.zeros((1, len(x), indexer.columns.start))
    raw = mx.concatenate([padding, raw], axis=-1)  # the attention's own compressor comes first
    q, weights = indexer.q_b_proj(qr32), indexer.scorer.weights_proj(x32)
    q = mx.concatenate([mx.ones((1, len(x), 64)), q], axis=-1)  # an attention head comes first
    official = indexer._options["rounding"] == "index"
    keys, layout, result, start = Entries(), layout_for(official), Selected(), 0
    width = indexer.kv_norm.weight.size
    for size in sizes:
        part, stop = slice(start, start + size), start + size
        indexer.close(raw[:, :stop], keys, origin=0, position=start, stop=stop, storage=layout.name)
        if len(keys):
            cos, sin = indexer._rope.tables(start, size)
            _, prepared = plan("cpu").ops.q_prepare(
                q[:, part], cos, sin, heads=1, width=64, index_heads=weights.shape[-1],
                index_width=width, eps=1e-6, official=official,
            )  # fmt: skip
            chosen = indexer.select(prepared, weights[:, part], keys.rows(), start)
            vectors = prepared, load_stored(keys.rows(), width, 0, "key"), weights[:, part]
            result.add(chosen, vectors, start, indexer._topk)
        else:
            result.add_nothing(size)
        start += size
    return result


@pytest.mark.parametrize("sizes", [[150], [3, 1, 90, 56]])
def test_selection_equals_the_oracle_where_it_is_decided(sizes: list[int]) -> None:
    attention, layer = pair(8)
    x, qr = inputs(150)
    _, expected, margins = v4._index(layer, x, qr, v4.compressed_visible(150, 4))
    found = selected(attention.compressor.indexer, x, qr, sizes).found
    decided = margins > 1e-4
    assert decided.sum() > 80
    for p in np.flatnonzero(decided):
        assert found[p] == expected[p].tolist(), p


@pytest.mark.parametrize("numerics", list(Numerics))
@pytest.mark.parametrize("sizes", [[150], [3, 1, 90, 56]])
def test_selection_follows_from_the_vectors(numerics: Numerics, sizes: list[int]) -> None:
    """The rounded vectors themselves are compared in test_oracle_choices.py: a value that float32
    rounds to the other FP4 number moves a score by more than any margin worth asking for."""
    attention, _ = pair(8, numerics)
    x, qr = inputs(150)
    ours = selected(attention.compressor.indexer, x, v4.round_bf16(qr), sizes)
    decided = np.array(ours.margins) > 1e-5
    assert decided[36:].sum() > 100  # from position 35 on there are more entries than picks
    for p in np.flatnonzero(decided):
        assert ours.found[p] == ours.expected[p], p


@pytest.mark.parametrize("topk", [1, 4, 16])
def test_selects_only_when_there_are_more_entries_than_picks(topk: int) -> None:
    indexer = pair(topk)[0].compressor.indexer
    assert not indexer.selects(4 * topk + 3)
    assert indexer.selects(4 * topk + 4)


@pytest.mark.parametrize("length", [16, 67])
def test_skipping_the_selection_changes_nothing(monkeypatch, length: int) -> None:
    """While every visible entry would be selected, the answer is the same without choosing."""
    settings = small.one_layer(4, index_topk=16)
    ours = small.model(settings, small.weights(settings))
    skipped = small.logits(ours, small.TOKENS[:length])
    monkeypatch.setattr(Indexer, "selects", lambda self, length: True)
    chosen = small.logits(ours, small.TOKENS[:length])
    np.testing.assert_allclose(chosen, skipped, atol=2e-5)


def test_index_keys_are_kept_while_the_selection_is_skipped() -> None:
    """Short calls need no scores, but later ones choose among all entries."""
    attention, layer = pair(6)
    cache = LayerCache(small.SPARSE, layout_for(False))
    x, _ = inputs(40)
    attention(mx.array(x[None, :20].astype(np.float32)), cache)
    state = cache.rows[0]
    assert len(state.keys) == len(state.entries) == 5
    attention(mx.array(x[None, 20:].astype(np.float32)), cache)
    expected = v4._compressed_entries(layer, "attn.indexer.compressor.", x)
    np.testing.assert_allclose(np.array(state.keys.rows())[0], expected, atol=3e-5)


def test_attention_follows_the_selection() -> None:
    """With one pick per query, the layer equals the oracle's with the same picks."""
    settings = small.one_layer(4, index_topk=1, sliding_window=3)
    tensors = small.weights(settings)
    ours = small.model(settings, tensors)
    tokens, streams = small.TOKENS[:60], np.random.default_rng(2).standard_normal((60, 4, 48))
    expected = v4.run_block(settings, tensors, 0, streams, tokens, official=False)
    assert (expected.index_margins > 1e-4).all()
    found = small.block(ours, 0, streams, tokens)
    assert small.relative_error(found, expected.streams) < 1e-5
    picks = {int(row[0]) for row in expected.index_selected if len(row)}
    assert len(picks) > 5
