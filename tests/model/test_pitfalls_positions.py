"""Known pitfalls of rotary positions: rows 3 to 7 and 46."""

import mlx.core as mx
import numpy as np
import pytest

import dsv4_mlx.model.decoder_layer as layer_module
import metal_kernels.sparse_attention.reference as sparse_attention
from dsv4_mlx.cache import LayerCache, layout_for
from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.model.compressor import Compressor
from dsv4_mlx.model.rope import RotaryEmbedding, compressed_rope, sliding_rope
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.release.spellings import config_of
from metal_kernels.registry import plan
from metal_kernels.shared import rotary
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op, wrap
from tests.oracle import v4_numpy as v4

PITFALLS = Pitfalls()
MSCALE = 0.1 * np.log(16) + 1
ROTATING = ("q_prepare", "qkv_prepare", "compress", "sparse_attention")


def replace_rotate(patch: pytest.MonkeyPatch, wrong) -> None:
    """In every kernel that rotates."""
    for kernel in ROTATING:
        patch.setattr(f"metal_kernels.{kernel}.reference.rotate", wrong)


def replace_tables(patch: pytest.MonkeyPatch, make) -> None:
    wrap(patch, RotaryEmbedding, "_tables", make)


# --- 3: no amplitude -----------------------------------------------------------------------------


def mscale_on_cos_and_sin(patch: pytest.MonkeyPatch) -> None:
    def make(tables):
        return lambda self, *a: tuple(float(MSCALE) * t for t in tables(self, *a))

    replace_tables(patch, make)


def mscale_on_the_softmax(patch: pytest.MonkeyPatch) -> None:
    def make(attend):
        return lambda q, *a, **options: attend(float(MSCALE) ** 2 * q, *a, **options)

    wrap(patch, sparse_attention, "attend", make)


@PITFALLS.row(3, mscale_on_cos_and_sin, mscale_on_the_softmax)
def check_yarn_scales_neither_rotation_nor_softmax() -> None:
    """Two keys with logits 1 and 2 after rotation, read back by the same rotation."""
    cos, sin = compressed_rope(FLASH).tables(700, 1)
    np.testing.assert_allclose(np.array(cos) ** 2 + np.array(sin) ** 2, 1, rtol=1e-6)
    q = np.zeros((1, 1, 1, 128), np.float32)
    window = np.zeros((1, 2, 128), np.float32)
    q[..., 0], window[0, :, 0], window[0, :, 1] = 128**0.5, [1, 2], [3, 5]
    output = plan("cpu").ops.sparse_attention(
        mx.array(q), mx.array(window), mx.array([-np.inf]), cos, sin,
        first_position=700, origin=699, ratio=4, sliding_window=2, official=False,
    )  # fmt: skip
    expected = (3 * np.e + 5 * np.e**2) / (np.e + np.e**2)
    np.testing.assert_allclose(output[0, 0, 0, 1].item(), expected, rtol=1e-5)


# --- 4: one table per kind of layer --------------------------------------------------------------


def one_theta_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(layer_module, "compressed_rope", sliding_rope)


def compressed_theta_everywhere(patch: pytest.MonkeyPatch) -> None:
    def wrong(config: DeepseekV4Config) -> RotaryEmbedding:
        return RotaryEmbedding(config.qk_rope_head_dim, config.compress_rope_theta, None)

    patch.setattr(layer_module, "sliding_rope", wrong)


def yarn_in_sliding_layers(patch: pytest.MonkeyPatch) -> None:
    def wrong(config: DeepseekV4Config) -> RotaryEmbedding:
        return RotaryEmbedding(config.qk_rope_head_dim, config.rope_theta, config.rope_scaling)

    patch.setattr(layer_module, "sliding_rope", wrong)


def no_yarn_in_compressed_layers(patch: pytest.MonkeyPatch) -> None:
    def wrong(config: DeepseekV4Config) -> RotaryEmbedding:
        return RotaryEmbedding(config.qk_rope_head_dim, config.compress_rope_theta, None)

    patch.setattr(layer_module, "compressed_rope", wrong)


@PITFALLS.row(
    4,
    one_theta_for_all,
    compressed_theta_everywhere,
    yarn_in_sliding_layers,
    no_yarn_in_compressed_layers,
)
def check_every_kind_of_layer_has_its_own_frequencies() -> None:
    """Whole layers against the oracle; YaRN starts early, so that 150 positions show it."""
    scaling = {**small.CONFIG["rope_scaling"], "original_max_position_embeddings": 64}
    for ratio in (0, 4, 128):
        settings = small.one_layer(ratio, rope_scaling=scaling)
        tensors = small.weights(settings)
        streams = np.random.default_rng(0).standard_normal((150, 4, 48))
        tokens = small.TOKENS[:150]
        found = small.block(small.model(settings, tensors), 0, streams, tokens)
        expected = v4.run_block(settings, tensors, 0, streams, tokens, official=False).streams
        assert small.relative_error(found, expected) < 1e-5, f"ratio {ratio}"


# --- 5: adjacent pairs of the last dims ----------------------------------------------------------


def _split_halves(x, cos, sin, *, inverse=False):
    dims = 2 * cos.shape[-1]
    a, b = mx.split(x[..., -dims:], 2, axis=-1)
    sin = -sin if inverse else sin
    return mx.concatenate([x[..., :-dims], a * cos - b * sin, a * sin + b * cos], axis=-1)


def rotate_halves(patch: pytest.MonkeyPatch) -> None:
    replace_rotate(patch, _split_halves)


def rotate_the_first_dims(patch: pytest.MonkeyPatch) -> None:
    rotate = rotary.rotate

    def wrong(x, cos, sin, *, inverse=False):
        dims = 2 * cos.shape[-1]
        return mx.concatenate(
            [rotate(x[..., :dims], cos, sin, inverse=inverse), x[..., dims:]], axis=-1
        )

    replace_rotate(patch, wrong)


@PITFALLS.row(5, rotate_halves, rotate_the_first_dims)
def check_an_impulse_turns_within_its_pair() -> None:
    ops, (cos, sin) = plan("cpu").ops, sliding_rope(FLASH).tables(11, 1)
    c, s = (np.array(t)[0].astype(np.float64) for t in (cos, sin))
    turned = {
        0: {0: 1.0},
        448: {448: c[0], 449: s[0]},
        449: {448: -s[0], 449: c[0]},
        511: {510: -s[31], 511: c[31]},
    }
    for dim, expected in turned.items():
        impulse = np.zeros((1, 1, 512), np.float32)
        impulse[..., dim] = 1
        projected = mx.concatenate([mx.ones((1, 1, 4)), mx.array(impulse)], axis=-1)
        _, kv = ops.qkv_prepare(
            projected, mx.ones(4), mx.ones(512), cos, sin, eps=0.0, official=False,
            storage="float32",
        )  # fmt: skip
        q, _ = ops.q_prepare(
            mx.array(impulse), cos, sin, heads=1, width=512, index_heads=0, index_width=0,
            eps=0.0, official=False,
        )  # fmt: skip
        wanted = np.zeros(512)
        for place, value in expected.items():
            wanted[place] = value * np.sqrt(512)
        np.testing.assert_allclose(np.array(kv).ravel(), wanted, atol=1e-5)
        np.testing.assert_allclose(np.array(q).ravel(), wanted, atol=1e-5)


# --- 6: entries stand at the first position of their window --------------------------------------


def entries_not_rotated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("metal_kernels.compress.reference.rotate", lambda x, cos, sin: x)


def _entry_positions(name: str, first_and_stride) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(tables):
            def wrong(self, first, count, stride=1):
                if stride > 1:
                    first, stride = first_and_stride(first, stride)
                return tables(self, first, count, stride)

            return wrong

        replace_tables(patch, make)

    plant.__name__ = name
    return plant


@PITFALLS.row(
    6,
    entries_not_rotated,
    _entry_positions("entries_at_the_pool_index", lambda first, m: (first // m, 1)),
    _entry_positions("entries_at_the_window_end", lambda first, m: (first + m - 1, m)),
    _entry_positions("entries_at_the_first_pooled_token", lambda first, m: (first - m, m)),
)
def check_entry_w_is_rotated_at_m_times_w() -> None:
    """All tokens alike, so that every entry is the same vector but for its rotation."""
    config, ops = config_of(small.CONFIG), plan("cpu").ops
    vector = np.random.default_rng(0).standard_normal(config.head_dim)
    frequencies = v4._layer_frequencies(small.CONFIG, 4)
    for role, tokens in ((small.SPARSE, 18), (small.HEAVY, 257)):
        ratio = role.ratio
        compressor = Compressor(
            config, role, width=config.head_dim, rounding="none", ops=ops,
            rope=compressed_rope(config),
        )  # fmt: skip
        entries = Entries()
        lanes = np.tile(vector, role.spanned).astype(np.float32)
        kv = mx.array(np.tile(lanes, (1, tokens, 1)))
        rows = mx.concatenate([kv, 0 * kv], axis=-1)
        for start, stop in ((0, 7), (7, tokens)):
            compressor.close(rows, entries, origin=0, position=start, stop=stop, storage="float32")
        count = tokens // ratio
        normed = np.tile(v4.rms_norm(vector, 1.0, 1e-6), (count, 1))
        angles = v4.rope_angles(ratio * np.arange(count), frequencies)
        expected = v4.apply_rope(normed, angles)
        np.testing.assert_allclose(np.array(entries.rows())[0], expected, atol=1e-5)


# --- 7: the output is rotated back by the query's position ---------------------------------------


def _attention_rotation(name: str, wrong_angles) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(op):
            def wrong(q, window, sinks, cos, sin, *rest, **options):
                cos, sin = wrong_angles(cos, sin, options["first_position"])
                return op(q, window, sinks, cos, sin, *rest, **options)

            return wrong

        replace_op(patch, "sparse_attention", make)

    plant.__name__ = name
    return plant


def _other_theta(cos, sin, position):
    return compressed_rope(config_of(small.CONFIG)).tables(position, len(cos))


def _position_of_a_key(cos, sin, position):
    rope = sliding_rope(config_of(small.CONFIG))
    return rope.tables(position // 2, len(cos))


@PITFALLS.row(
    7,
    _attention_rotation("no_inverse_rope", lambda cos, sin, _: (mx.ones_like(cos), 0 * sin)),
    _attention_rotation("output_rotated_forward", lambda cos, sin, _: (cos, -sin)),
    _attention_rotation("inverse_rope_of_another_layer_kind", _other_theta),
    _attention_rotation("inverse_rope_at_a_key", _position_of_a_key),
)
def check_window_attention_is_the_same_at_every_position() -> None:
    settings = small.one_layer(0)
    attention = small.model(settings, small.weights(settings)).layers[0].self_attn
    x = mx.random.normal((1, 40, 48), key=mx.random.key(0))
    before = mx.random.normal((1, settings["sliding_window"], 48), key=mx.random.key(1))
    outputs = []
    for earlier in (1, 1000):
        cache = LayerCache(small.SLIDING, layout_for(False))
        attention(mx.zeros((1, earlier, 48)) + 1, cache)
        attention(before, cache)
        parts = [attention(x[:, :25], cache), attention(x[:, 25:], cache)]
        outputs.append(np.array(mx.concatenate(parts, axis=1)))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-3)


# --- 46: angles, not periods ---------------------------------------------------------------------


def periods_for_frequencies(patch: pytest.MonkeyPatch) -> None:
    def make(init):
        def wrong(self, *a):
            init(self, *a)
            self.frequencies = (1 / self.frequencies).astype(np.float32)

        return wrong

    wrap(patch, RotaryEmbedding, "__init__", make)


@PITFALLS.row(46, periods_for_frequencies)
def check_position_one_turns_by_the_frequencies() -> None:
    expected = {0: 1.0, 1: 0.6876560219, 15: 0.003635538584, 20: 2.969777783e-4, 31: 5.680529037e-7}
    cos, sin = (np.array(t)[0] for t in compressed_rope(FLASH).tables(1, 1))
    for pair, angle in expected.items():
        np.testing.assert_allclose(
            [cos[pair], sin[pair]], [np.cos(angle), np.sin(angle)], atol=1e-7
        )


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
