"""The oracle as a whole model: what influences what, which values are rounded, the draft block."""

import numpy as np
import pytest

from tests.oracle import v4_numpy as v4
from tests.oracle.tiny import TINY, random_weights

LENGTH = 150
TOKENS = np.random.default_rng(1).integers(0, TINY["vocab_size"], LENGTH)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return random_weights()


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "official"])
def official(request) -> bool:
    return request.param


def one_layer(ratio: int, **changes) -> dict:
    """TINY with a single layer; its weights come from the first TINY layer with that ratio."""
    return {**TINY, "num_hidden_layers": 1, "compress_ratios": [ratio], **changes}


def changed_rows(config: dict, token: int, length: int = LENGTH, **options) -> list[int]:
    """Positions whose logits change when the token at one position does."""
    weights = random_weights(config)
    other = TOKENS[:length].copy()
    other[token] = (other[token] + 1) % config["vocab_size"]
    logits = [
        v4.forward(config, weights, ids, official=False, **options).logits
        for ids in (TOKENS[:length], other)
    ]
    return np.flatnonzero(np.abs(logits[0] - logits[1]).max(axis=1) > 1e-12).tolist()


@pytest.mark.parametrize("token", [0, 31, 127, 128, 149])
def test_a_token_changes_nothing_before_it(weights, official, token):
    other = TOKENS.copy()
    other[token] = (other[token] + 1) % TINY["vocab_size"]
    before, after = (
        v4.forward(TINY, weights, ids, official=official).logits for ids in (TOKENS, other)
    )
    np.testing.assert_allclose(after[:token], before[:token], rtol=0, atol=1e-12)
    assert (np.abs(after[token:] - before[token:]).max(axis=1) > 1e-9).all()


def test_a_prefix_gives_the_same_logits(weights, official):
    whole = v4.forward(TINY, weights, TOKENS, official=official).logits
    for length in (1, 3, 4, 130):
        part = v4.forward(TINY, weights, TOKENS[:length], official=official).logits
        np.testing.assert_allclose(part, whole[:length], rtol=0, atol=1e-11)


def test_sliding_layer_sees_exactly_its_window():
    assert changed_rows(one_layer(0), 10) == list(range(10, 10 + TINY["sliding_window"]))


def test_hca_entry_is_seen_from_the_last_token_of_its_window_on():
    window = range(10, 10 + TINY["sliding_window"])
    assert changed_rows(one_layer(128), 10) == [*window, *range(127, LENGTH)]


def test_csa_entries_carry_a_token_into_its_own_and_the_next_window():
    config = one_layer(4, sliding_window=1)
    assert changed_rows(config, 5, 40) == [5, *range(7, 40)]
    own, following = ([np.array([w])] * 40 for w in (1, 2))
    nothing = [np.array([-1])] * 8
    assert changed_rows(config, 5, 40, selections={0: nothing + own[8:]}) == [5, *range(8, 40)]
    late = [np.array([-1])] * 11 + following[11:]
    assert changed_rows(config, 5, 40, selections={0: late}) == [5, *range(11, 40)]
    later = [np.array([-1])] * 15 + [np.array([3])] * 25
    assert changed_rows(config, 5, 40, selections={0: later}) == [5]


def test_only_the_best_entries_are_selected(weights):
    layers = v4.forward(TINY, weights, TOKENS, official=False).layers
    for number, layer in enumerate(layers):
        assert (layer.index_scores is not None) == (TINY["compress_ratios"][number] == 4)
    csa = layers[1]
    visible = v4.compressed_visible(LENGTH, 4)
    np.testing.assert_array_equal(np.isfinite(csa.index_scores), visible)
    for p in range(LENGTH):
        chosen = csa.index_selected[p]
        assert len(chosen) == min(TINY["index_topk"], (p + 1) // 4)
        rest = np.setdiff1d(np.flatnonzero(visible[p]), chosen)
        if len(rest):
            margin = csa.index_scores[p, chosen].min() - csa.index_scores[p, rest].max()
            assert margin == csa.index_margins[p] > 0
        else:
            assert csa.index_margins[p] == np.inf


def test_index_scores_equal_loops(weights):
    layer = v4.Layer(TINY, weights, "layers.1.", 4, True, False)
    x = np.random.default_rng(0).standard_normal((9, 48))
    qr = np.random.default_rng(1).standard_normal((9, 32))
    scores, _, _ = v4._index(layer, x, qr, v4.compressed_visible(9, 4))
    keys = v4._compressed_entries(layer, "attn.indexer.compressor.", x)
    q = (qr @ layer["attn.indexer.wq_b.weight"].T)[8].reshape(1, 32, 32)
    q = v4.apply_rope(q, layer.angles([8]))[0]
    head_weights = layer["attn.indexer.weights_proj.weight"] @ x[8]
    for w in range(2):
        terms = [a * max(q_head @ keys[w], 0) for a, q_head in zip(head_weights, q, strict=True)]
        assert scores[8, w] == pytest.approx(sum(terms) / 32, abs=1e-14)  # (32 * 32)**0.5


def test_forcing_the_own_choices_changes_nothing(weights, official):
    free = v4.forward(TINY, weights, TOKENS, official=official)
    selections = {n: layer.index_selected for n, layer in enumerate(free.layers)}
    experts = {n: layer.experts for n, layer in enumerate(free.layers)}
    forced = v4.forward(
        TINY, weights, TOKENS, official=official,
        selections={n: s for n, s in selections.items() if s is not None}, experts=experts,
    )  # fmt: skip
    np.testing.assert_array_equal(forced.logits, free.logits)


def test_forced_choices_are_used_and_the_own_ones_still_reported(weights):
    free = v4.forward(TINY, weights, TOKENS, official=False)
    selection = [np.array([0]) if p >= 3 else np.array([], int) for p in range(LENGTH)]
    experts = (free.layers[3].experts + 1) % TINY["n_routed_experts"]
    for forced in ({"selections": {3: selection}}, {"experts": {3: experts}}):
        result = v4.forward(TINY, weights, TOKENS, official=False, **forced)
        np.testing.assert_array_equal(result.streams[2], free.streams[2])
        assert np.abs(result.streams[3] - free.streams[3])[100:].max() > 1e-3
        np.testing.assert_array_equal(result.layers[3].index_scores, free.layers[3].index_scores)
        if "selections" in forced:
            continue
        np.testing.assert_array_equal(result.layers[3].experts, free.layers[3].experts)


def test_a_forced_entry_from_the_future_is_refused(weights):
    with pytest.raises(ValueError, match="ends after it"):
        v4.forward(TINY, weights, TOKENS, official=False, selections={1: [np.array([0])] * LENGTH})


def test_blocks_in_a_row_are_the_model(weights, official):
    whole = v4.forward(TINY, weights, TOKENS[:20], official=official)
    streams = np.repeat(weights["embed.weight"][TOKENS[:20], None], 4, axis=1)
    for number, layer in enumerate(whole.layers):
        block = v4.run_block(TINY, weights, number, streams, TOKENS[:20], official=official)
        np.testing.assert_array_equal(block.streams, layer.streams)
        streams = block.streams


def test_hash_layers_route_by_token_and_the_others_by_score(weights):
    layers = v4.forward(TINY, weights, TOKENS, official=False).layers
    for number, layer in enumerate(layers):
        if number < TINY["num_hash_layers"]:
            table = weights[f"layers.{number}.ffn.gate.tid2eid"]
            np.testing.assert_array_equal(layer.experts, table[TOKENS])
            assert np.isinf(layer.expert_margins).all()
        else:
            assert np.isfinite(layer.expert_margins).all()
            repeated = [layer.experts[t == TOKENS] for t in np.unique(TOKENS)]
            assert any((rows != rows[0]).any() for rows in repeated)
        np.testing.assert_allclose(layer.expert_weights.sum(axis=1), 1.5, rtol=1e-12)


@pytest.mark.parametrize("name", ["shared_experts", "experts.0"])
def test_every_expert_is_clamped(weights, name):
    streams = np.repeat(weights["embed.weight"][TOKENS, None], 4, axis=1)

    def block(factor: float) -> np.ndarray:
        scaled = dict(weights)
        for part in ("w1", "w3"):
            scaled[f"layers.2.ffn.{name}.{part}.weight"] = factor * random_direction
        return v4.run_block(TINY, scaled, 2, streams, TOKENS, official=False).streams

    random_direction = weights[f"layers.2.ffn.{name}.w1.weight"]
    np.testing.assert_allclose(block(1e10), block(1e12), rtol=0, atol=1e-9)
    assert np.abs(block(1e12) - block(1)).max() > 0.1


# --- Roundings -----------------------------------------------------------------------------------


class Recorder:
    """Counts the calls of a rounding function by the shape it was given."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[tuple] = []
        for name in ("round_bf16", "fp8_roundtrip", "fp4_roundtrip", "hadamard"):
            monkeypatch.setattr(v4, name, self.wrap(name, getattr(v4, name)))

    def wrap(self, name, function):
        def recorded(x, *block):
            self.calls.append((name, *block, x.shape))
            return function(x, *block)

        return recorded


S, T4 = 20, 5
Q_SHAPE, STREAMS = (S, 4, 80), (S, 4, 48)


def expected_roundings(ratio: int) -> list[tuple]:
    entries, index = [], []
    count = S // ratio if ratio else 0
    if ratio:
        entries = [("round_bf16", (count, 80)), ("fp8_roundtrip", 64, (count, 64))]
    if ratio == 4:
        for shape in ((S, 32, 32), (T4, 32)):
            index += [("round_bf16", shape), ("hadamard", shape)]
            index += [("round_bf16", shape), ("fp4_roundtrip", 32, shape)]
    return [
        ("round_bf16", (S, 48)),  # u
        ("round_bf16", (S, 32)),  # qr
        ("round_bf16", Q_SHAPE),  # q after the head norm
        ("round_bf16", (S, 80)),  # window kv
        ("fp8_roundtrip", 64, (S, 64)),
        *entries,
        *index,
        ("round_bf16", (S, 4, S + count)),  # probabilities
        ("round_bf16", Q_SHAPE),  # attention output
        ("round_bf16", STREAMS),
        ("round_bf16", (S, 48)),  # u
        ("round_bf16", (S, 48)),  # routed plus shared experts
        ("round_bf16", STREAMS),
    ]


@pytest.mark.parametrize(("number", "ratio"), [(0, 0), (1, 4), (2, 128)])
def test_official_rounds_at_the_named_points_and_nowhere_else(weights, monkeypatch, number, ratio):
    streams = np.random.default_rng(0).standard_normal(STREAMS)
    recorder = Recorder(monkeypatch)
    v4.run_block(TINY, weights, number, streams, TOKENS[:S], official=True)
    assert recorder.calls == expected_roundings(ratio)
    recorder.calls.clear()
    v4.forward({**TINY, "num_hidden_layers": 0}, weights, TOKENS[:S], official=True)
    assert recorder.calls == [("round_bf16", (S, 48))]  # h of the hyper-head
    recorder.calls.clear()
    v4.mtp_forward(TINY, weights, streams, TOKENS[:S], official=True)
    first, *block, last = recorder.calls
    assert first == ("round_bf16", STREAMS)
    assert block == expected_roundings(0)
    assert last == ("round_bf16", (S, 48))


def test_plain_rounds_nowhere(weights, monkeypatch):
    recorder = Recorder(monkeypatch)
    result = v4.forward(TINY, weights, TOKENS, official=False)
    v4.mtp_forward(TINY, weights, result.streams[-1], TOKENS, official=False)
    assert recorder.calls == []


def test_roundings_move_a_block_little(weights):
    plain = v4.forward(TINY, weights, TOKENS, official=False)
    streams = np.repeat(weights["embed.weight"][TOKENS, None], 4, axis=1)
    for number, expected in enumerate(plain.layers):
        rounded = v4.run_block(
            TINY, weights, number, streams, TOKENS, official=True,
            selection=expected.index_selected, experts=expected.experts,
        )  # fmt: skip
        error = np.linalg.norm(rounded.streams - expected.streams)
        assert 1e-4 < error / np.linalg.norm(expected.streams) < 2e-2
        np.testing.assert_array_equal(rounded.streams, v4.round_bf16(rounded.streams))
        streams = expected.streams


# --- The draft block -----------------------------------------------------------------------------


def draft_as_backbone(weights: dict) -> tuple[dict, dict]:
    """A one-layer backbone made of the draft block's own tensors."""
    drafts = {n.removeprefix("mtp.0."): w for n, w in weights.items() if n.startswith("mtp.0.")}
    backbone = {
        name if name.startswith(("hc_head_", "norm")) else f"layers.0.{name}": w
        for name, w in drafts.items()
    }
    shared = {name: weights[name] for name in ("embed.weight", "head.weight")}
    return one_layer(0, num_hash_layers=0), {**backbone, **shared}


def identity_draft(weights: dict, used: str, unused: str) -> dict:
    """Weights whose draft input is the normed embedding or the normed stream alone."""
    identity = np.eye(TINY["hidden_size"])
    return weights | {
        f"mtp.0.{used}_proj.weight": identity,
        f"mtp.0.{used}norm.weight": np.ones(len(identity)),
        f"mtp.0.{unused}_proj.weight": 0 * identity,
    }


@pytest.mark.parametrize("used", ["e", "h"])
def test_draft_block_is_a_sliding_block_on_either_normed_input(weights, official, used):
    edited = identity_draft(weights, used, "h" if used == "e" else "e")
    config, backbone = draft_as_backbone(edited)
    table = weights["embed.weight"]
    normed = v4.rms_norm(table, 1.0, TINY["rms_norm_eps"])
    backbone["embed.weight"] = v4.round_bf16(normed) if official else normed
    tokens, other = TOKENS[:40], TOKENS[40:80]
    expected = v4.forward(config, backbone, tokens, official=official)
    seen, next_tokens = (other, tokens) if used == "e" else (tokens, other)
    streams = np.repeat(table[seen, None], 4, axis=1)
    draft = v4.mtp_forward(TINY, edited, streams, next_tokens, official=official)
    np.testing.assert_allclose(draft.logits, expected.logits, rtol=0, atol=1e-10)


def test_draft_block_norms_each_stream_by_itself(weights):
    streams = np.random.default_rng(0).standard_normal((10, 4, TINY["hidden_size"]))
    factors = np.array([0.5, 1.0, 20.0, 300.0])[:, None]
    logits = [
        v4.mtp_forward({**TINY, "rms_norm_eps": 1e-30}, weights, x, TOKENS[:10], official=False)
        for x in (streams, streams * factors)
    ]
    np.testing.assert_allclose(logits[0].logits, logits[1].logits, rtol=0, atol=1e-10)


def test_draft_block_sees_streams_and_next_tokens_of_the_past_only(weights):
    streams = np.random.default_rng(0).standard_normal((30, 4, TINY["hidden_size"]))
    base = v4.mtp_forward(TINY, weights, streams, TOKENS[:30], official=False).logits
    tokens = TOKENS[:30].copy()
    tokens[12] = (tokens[12] + 1) % TINY["vocab_size"]
    moved = streams.copy()
    moved[12, 2] += 1
    for x, ids in ((streams, tokens), (moved, TOKENS[:30])):
        other = v4.mtp_forward(TINY, weights, x, ids, official=False).logits
        changed = np.abs(other - base).max(axis=1) > 1e-12
        assert np.flatnonzero(changed).tolist() == list(range(12, 30))
