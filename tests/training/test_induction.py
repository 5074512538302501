"""The first weights already look for what followed a token before; computed here anew."""

import numpy as np
import pytest

from dsv4_mlx.training.induction import add_induction
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.nano_recipe import NANO

FREE = NANO.head_dim - NANO.qk_rope_head_dim
TOKENS = 24


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    parameters = initial_parameters(NANO, 0)
    add_induction(NANO, parameters)
    return {name: np.array(value, np.float64) for name, value in parameters.items()}


def normed(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True))


def rotated(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The last dims of x [S, K], adjacent pairs, turned by the angles of their places."""
    pairs = x[:, FREE:].reshape(len(x), -1, 2)
    count = pairs.shape[1]
    angles = places[:, None] * NANO.rope_theta ** (-np.arange(count) / count)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    flat = np.stack([turned.real, turned.imag], axis=-1).reshape(len(x), -1)
    return np.concatenate([x[:, :FREE], flat], axis=1)


def scores(weights: dict[str, np.ndarray], layer: int, head: int, x: np.ndarray) -> np.ndarray:
    """Scores [S, S] of a head for the normed tokens x [S, D], of what comes later none."""
    w = {name: weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"] for name in _NAMES}
    queries = w["q_b"].reshape(NANO.num_attention_heads, NANO.head_dim, -1)[head]
    places = np.arange(len(x))
    q = rotated(normed(normed(x @ w["q_a"].T) @ queries.T), places)
    k = rotated(normed(x @ w["kv"].T), places)
    return np.where(places[:, None] >= places, q @ k.T / NANO.head_dim**0.5, -np.inf)


_NAMES = ("q_a", "q_b", "kv")


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def twice(weights: dict[str, np.ndarray]) -> np.ndarray:
    """Embeddings [2 * TOKENS, D] of different tokens that are said again in the same order."""
    said = np.random.default_rng(1).permutation(NANO.vocab_size)[:TOKENS]
    return weights["model.embed_tokens.weight"][np.concatenate([said, said])]


@pytest.mark.parametrize("head", [0, 1, 2])
def test_heads_of_the_first_layer_see_tokens_before(weights: dict[str, np.ndarray], head: int):
    paid = softmax(scores(weights, 0, head, normed(twice(weights))))
    back = head + 1
    assert np.all(np.diag(paid, -back) > 0.6)


@pytest.mark.parametrize(("layer", "head"), [(1, 0), (1, 4), (2, 0), (2, 4), (4, 4)])
def test_later_heads_find_what_followed(weights: dict[str, np.ndarray], layer: int, head: int):
    x = normed(twice(weights))
    first = "model.layers.0.self_attn"
    values = normed(x @ weights[f"{first}.kv_proj.weight"].T)[:, :FREE]
    seen = softmax(scores(weights, 0, 0, x)) @ values
    o_a, o_b = (weights[f"{first}.{name}_proj.weight"] for name in ("o_a", "o_b"))
    rank = NANO.o_lora_rank
    handed = seen @ o_a[:rank, :FREE].T @ o_b[:, :rank].T
    assert 0.5 < np.square(handed).mean() < 4  # about as large as the token itself
    paid = softmax(scores(weights, layer, head, normed(x + handed)))
    following = paid[np.arange(TOKENS, 2 * TOKENS - 1), np.arange(1, TOKENS)]
    assert following.mean() > 0.9


def test_dims_of_an_entry_are_shared_out_among_its_tokens(weights: dict[str, np.ndarray]):
    bias = weights["model.layers.4.self_attn.compressor.position_bias"]
    before, own = bias[:, : NANO.head_dim], bias[:, NANO.head_dim :]
    shares = softmax(np.concatenate([before, own]).T)[:FREE]  # [dims, 8 tokens]
    preferred = shares.argmax(axis=1)
    assert np.bincount(preferred, minlength=8).tolist() == [0, 0, 0, 0, *[FREE // 4] * 4]
    assert shares.max(axis=1).min() > 0.75
    queries = weights["model.layers.4.self_attn.q_b_proj.weight"].reshape(8, NANO.head_dim, -1)
    for place, head in enumerate(queries[:4]):
        asked = np.square(head[:FREE]).sum(axis=1)
        assert asked[preferred == 4 + place].min() > 10 * asked[preferred != 4 + place].max()


def test_layers_without_entries_look_up_all_the_same():
    config = NANO.replace(compress_ratios=(0, 0, 0), num_hidden_layers=2)
    parameters = initial_parameters(config, 0)
    add_induction(config, parameters)
    asked = np.array(parameters["model.layers.1.self_attn.q_a_proj.weight"], np.float64)
    np.testing.assert_allclose(asked @ asked.T, np.eye(len(asked)), atol=1e-5)
