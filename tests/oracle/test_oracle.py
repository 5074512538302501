"""The oracle against the published golden vectors, its parts one by one."""

import numpy as np
import pytest

from tests.oracle import v4_numpy as v4

YARN = v4.yarn_frequencies(
    160000, 64, factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1
)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --- Hyper-connections ---------------------------------------------------------------------------


def golden_split():
    i = np.arange(24)
    return v4.sinkhorn_split(np.sin(i + 1), np.array([0.5, 0.7, 0.9]), 0.1 * np.cos(i))


def test_split_of_the_golden_mixes():
    pre, post, comb = golden_split()
    np.testing.assert_allclose(pre, [0.6273207, 0.6244977, 0.5072368, 0.3828671], atol=6e-8)
    np.testing.assert_allclose(post, [0.6474912, 0.9165820, 1.2710102, 1.3661506], atol=6e-8)
    expected = [
        [0.3609470, 0.2168840, 0.1816574, 0.2405106],
        [0.1543917, 0.3982038, 0.3401988, 0.1072048],
        [0.0519538, 0.1030988, 0.3192365, 0.5257099],
        [0.4327065, 0.2818124, 0.1589064, 0.1265738],
    ]
    np.testing.assert_allclose(comb, expected, atol=6e-8)
    np.testing.assert_allclose(comb.sum(axis=0), 1 / (1 + 1e-6), rtol=1e-11)
    np.testing.assert_allclose(comb.sum(axis=1), 0.999999, atol=5e-7)


def test_old_streams_mix_over_the_first_index_of_comb():
    _, post, comb = golden_split()
    streams = np.array([1.0, 10, 100, 1000])[None, :, None]
    mixed = v4.hyper_post(np.zeros((1, 1)), streams, post[None], comb[None])
    np.testing.assert_allclose(
        mixed.ravel(), [439.80672, 296.32122, 194.41365, 180.45730], rtol=2e-7
    )


def test_new_streams_equal_three_loops():
    y, streams, post, comb = random(2, 3), random(2, 4, 3), random(2, 4), random(2, 4, 4)
    expected = np.zeros_like(streams)
    for s in range(2):
        for k in range(4):
            expected[s, k] = post[s, k] * y[s]
            for j in range(4):
                expected[s, k] += comb[s, j, k] * streams[s, j]
    np.testing.assert_allclose(v4.hyper_post(y, streams, post, comb), expected, atol=1e-14)


# --- Rotary positions ----------------------------------------------------------------------------


def test_yarn_frequencies_of_the_release():
    assert YARN.dtype == np.float32
    picked = YARN[[0, 1, 15, 16, 20, 24, 25, 31]]
    expected = [1, 0.6876560219, 0.003635538584, 0.002265625, 2.969777783e-4, 1.953125e-5]
    expected += [5.372312671e-6, 5.680529037e-7]
    np.testing.assert_allclose(picked, expected, rtol=6e-8)


def test_plain_frequencies_of_the_release():
    picked = v4.plain_frequencies(10000, 64)[[0, 1, 31]]
    np.testing.assert_allclose(picked, [1, 0.7498942093, 1.333521432e-4], rtol=6e-8)


def test_angles_at_a_million_are_float32_products():
    angles = v4.rope_angles([1_000_003], YARN)[0]
    assert angles.dtype == np.float64 and angles[5] == 153765.015625
    exact = 1_000_003 * 160000.0 ** (-5 / 32)  # YaRN leaves pair 5 alone
    np.testing.assert_allclose([exact, np.cos(exact)], [153765.022312, -0.973639], atol=6e-7)
    np.testing.assert_allclose(np.cos(angles[5]), -0.972092, atol=5e-7)
    np.testing.assert_allclose(angles[[16, 31]], [2265.6318, 0.5680546], rtol=3e-8)
    np.testing.assert_allclose(np.cos(angles[[16, 31]]), [-0.8559, 0.842949], atol=5e-5)


def test_rope_turns_adjacent_pairs_of_the_last_dims_only():
    x = random(3, 80)
    angles = v4.rope_angles([0, 1, 7], v4.plain_frequencies(10000, 16))
    y = v4.apply_rope(x, angles)
    np.testing.assert_array_equal(y[:, :64], x[:, :64])
    np.testing.assert_array_equal(y[0], x[0])
    pairs = x[:, 64::2] + 1j * x[:, 65::2]
    turned = pairs * np.exp(1j * angles)
    np.testing.assert_allclose(y[:, 64::2] + 1j * y[:, 65::2], turned, atol=1e-14)
    np.testing.assert_allclose(v4.apply_rope(y, angles, inverse=True), x, atol=1e-14)


def test_rotated_dot_products_depend_on_the_distance_alone():
    q, k = random(2, 1, 80)
    frequencies = v4.plain_frequencies(10000, 16)

    def product(position: int) -> float:
        turned_q = v4.apply_rope(q, v4.rope_angles([position], frequencies))
        turned_k = v4.apply_rope(k, v4.rope_angles([position - 5], frequencies))
        return float((turned_q @ turned_k.T).item())

    assert product(5) == pytest.approx(product(1000), abs=1e-3)
    assert product(5) != pytest.approx(float((q @ k.T).item()), abs=1e-2)


# --- Attention -----------------------------------------------------------------------------------


def golden_attention(sink: float) -> float:
    q = np.array([[[0.0, 1.0]]])
    kv = np.array([[3.0, 1.0], [5.0, 2.0]])  # values 3 and 5, logits 1 and 2
    seen = np.ones((1, 2), bool)
    return v4.sink_attention(q, kv, seen, np.array([sink]), 1.0)[0, 0, 0]


def test_sink_enlarges_the_denominator():
    assert golden_attention(0.5) == pytest.approx(3.836330, abs=5e-7)
    assert golden_attention(-np.inf) == pytest.approx(4.462117, abs=5e-7)
    assert abs(golden_attention(30.0)) < 1e-11


def test_attention_equals_a_softmax_over_what_is_seen():
    q, kv, sinks = random(3, 2, 4), random(5, 4, seed=1), random(2, seed=2)
    seen = np.array([[1, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], bool)
    o = v4.sink_attention(q, kv, seen, sinks, 0.5)
    for s in range(3):
        for h in range(2):
            weights = np.exp(0.5 * kv[seen[s]] @ q[s, h])
            expected = weights @ kv[seen[s]] / (weights.sum() + np.exp(sinks[h]))
            np.testing.assert_allclose(o[s, h], expected, atol=1e-14)


def test_official_probabilities_are_rounded_for_the_values_not_the_denominator():
    q, kv = np.array([[[1.0, 0.0]]]), np.array([[0.0, 1.0], [-0.3, 1.0]])
    seen, sinks = np.ones((1, 2), bool), np.array([-np.inf])
    o = v4.sink_attention(q, kv, seen, sinks, 1.0, official=True)[0, 0, 1]
    p = np.exp(-0.3)
    rounded = v4.round_bf16(np.array([p]))[0]
    assert rounded != p
    assert o == pytest.approx((1 + rounded) / (1 + p), abs=1e-15)


def test_window_holds_the_query_and_what_is_just_before():
    visible = v4.window_visible(200, 128)
    assert visible[199].nonzero()[0].tolist() == list(range(72, 200))
    assert visible[5].nonzero()[0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("rate", "entry", "first"), [(4, 0, 3), (4, 1, 7), (128, 0, 127), (128, 1, 255)]
)
def test_an_entry_is_visible_once_its_window_is_complete(rate, entry, first):
    assert v4.compressed_visible(300, rate)[:, entry].nonzero()[0].tolist() == list(
        range(first, 300)
    )


# --- Compression and selection -------------------------------------------------------------------


def golden_lanes() -> tuple[np.ndarray, np.ndarray]:
    t = np.arange(12)
    values = np.stack([t + 1.0, -(t + 1.0)], axis=1)
    scores = np.stack([np.sin(t) + 0.1 * (t % 4), np.cos(t) + 0.2 * (t % 4)], axis=1)
    return values, scores


def test_csa_entries_pool_the_previous_window_too():
    entries = v4.csa_pool(*golden_lanes())
    np.testing.assert_allclose(entries.ravel(), [-1.941294, -2.721128, -1.158891], atol=5e-7)
    values, scores = golden_lanes()
    alone = v4.hca_pool(values[:, 1:], scores[:, 1:], 4)
    np.testing.assert_allclose(alone.ravel(), [-1.941294, -7.122101, -10.898168], atol=5e-7)


@pytest.mark.parametrize(("lane", "token", "entry"), [(0, 5, 2), (0, 2, 1), (1, 5, 1), (1, 2, 0)])
def test_first_lane_feeds_the_next_entry_and_second_lane_its_own(lane, token, entry):
    values, scores = golden_lanes()
    scores[token, lane] = 1000.0
    pooled = v4.csa_pool(values, scores).ravel()
    assert (pooled == values[token, lane]).tolist() == [w == entry for w in range(3)]


def test_hca_entries_pool_whole_windows_per_channel():
    values, scores = random(9, 3), random(9, 3, seed=1)
    pooled = v4.hca_pool(values, scores, 4)
    assert pooled.shape == (2, 3)
    for w in range(2):
        for c in range(3):
            weights = np.exp(scores[4 * w : 4 * w + 4, c])
            expected = weights @ values[4 * w : 4 * w + 4, c] / weights.sum()
            assert pooled[w, c] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_an_unfinished_window_yields_no_entry(size):
    assert v4.csa_pool(random(size, 6), random(size, 6)).shape == (0, 3)
    assert v4.hca_pool(random(size, 3), random(size, 3), 4).shape == (0, 3)


def test_index_scores_cut_each_head_before_weighting():
    q = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    keys = np.array([[2.0, -1.0], [-3.0, 5.0], [1.0, 1.0]])
    scores = v4.index_scores(q, keys, np.array([[0.5, -2.0]]))
    np.testing.assert_array_equal(scores, [[1.0, -10.0, -1.5]])


def test_equal_scores_select_the_lowest_indices():
    scores = np.array([[1.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 2.0]])
    selected, margins = v4.select_top_k(scores, 2)
    assert [s.tolist() for s in selected] == [[0, 1], [0, 1], [1, 3]]
    assert margins.tolist() == [0, 0, 0]


def test_a_long_plateau_selects_its_lowest_indices():
    scores = np.zeros((1, 500))
    scores[0, [77, 400]] = 1.0, -1.0
    selected, _ = v4.select_top_k(scores, 100)
    assert selected[0].tolist() == list(range(100))


def test_invisible_entries_are_never_selected():
    scores = np.array([[1.0, -np.inf, -np.inf], [2.0, 5.0, -np.inf], [2.0, 5.0, 2.5]])
    selected, margins = v4.select_top_k(scores, 2)
    assert [s.tolist() for s in selected] == [[0], [0, 1], [1, 2]]
    assert margins.tolist() == [np.inf, np.inf, 0.5]


# --- Experts -------------------------------------------------------------------------------------

ROUTER_LOGITS = np.array([[-3.0, -1, 0, 1, 2, 5, 30, -40]])


def test_bias_chooses_experts_and_leaves_the_weights_alone():
    bias = np.array([2.0, 0, 0, 0, 0, 0, -5, 0])
    experts, weights, margins = v4.route(ROUTER_LOGITS, bias, 3, 1.5)
    assert experts.tolist() == [[5, 0, 4]]
    np.testing.assert_allclose(weights, [[0.857001, 0.084424, 0.558575]], atol=5e-7)
    assert margins[0] == pytest.approx(1.4583991 - 1.1459763, abs=2e-7)


def test_router_scores_of_the_golden_logits():
    order = np.arange(8)[None]
    _, weights, margins = v4.route(ROUTER_LOGITS, None, 8, 1.0, chosen=order)
    scores = [0.2204254, 0.5596979, 0.8325546, 1.1459763, 1.4583991, 2.2375691, 5.4772256, 0]
    np.testing.assert_allclose(weights[0] * sum(scores), scores, atol=3e-7)
    assert margins[0] == np.inf


def test_router_weights_sum_to_the_scaling_factor():
    _, weights, _ = v4.route(20 * random(50, 16), random(16), 6, 2.5)
    np.testing.assert_allclose(weights.sum(axis=1), 2.5, rtol=1e-14)


@pytest.mark.parametrize(
    ("gate", "up", "expected"),
    [(12, 3, 29.998638), (-12, 20, -0.000737), (3, -15, -28.577224), (-50, 50, 0), (50, 0.5, 5)],
)
def test_swiglu_clamps_the_gate_above_and_the_other_on_both_sides(gate, up, expected):
    value = v4.swiglu_clamped(np.array([float(gate)]), np.array([float(up)]), 10.0)[0]
    assert value == pytest.approx(expected, abs=5e-4 if gate == 50 else 6e-7)
