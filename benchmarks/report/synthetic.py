"""Layers of a release with random weights, made in memory: as many as fit, no file.

The values only have to be finite and lively; sizes, dtypes, packing and the way through the model
are the release's own. All 256 experts are there, because MLX ends its command buffers by what a
launch could read.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

import mlx.core as mx
import numpy as np

from benchmarks.report.sizes import layered
from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.loading import pack_layers
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.tensors import TensorSpec, backbone_tensors
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.weights.forms import total_bytes
from dsv4_mlx.weights.reading import MLX_DTYPES

FEWEST_LAYERS = 2
SHARE = 0.75
"""Of the memory that a model may use; the rest is for caches, a chunk and the system."""
_BLOCK_WORDS = (1 << 22) - 3
_ANY = 0xFFFFFFFF
_FINITE = 0xBFBFBFBF
"""Bits of four FP8 codes without the highest bit of their exponents: below 2, never NaN."""
_ONE_SCALE = 127


def weight_bytes(config: DeepseekV4Config, dense: str = "BF16") -> int:
    """Bytes of a config's weights in memory."""
    return total_bytes(dict(release_plan(config).loaded(dense)))


def fitting(config: DeepseekV4Config, limit: int, most: int) -> tuple[int, int]:
    """How many layers of `config` fit into `limit` bytes, at most `most`, and bytes of the fewest.

    0 layers where not even the fewest fit.
    """
    fewest = weight_bytes(layered(config, FEWEST_LAYERS))
    pair = weight_bytes(layered(config, 2 * FEWEST_LAYERS)) - fewest
    room = SHARE * limit - fewest
    if room < 0:
        return 0, fewest
    return min(most, FEWEST_LAYERS + int(FEWEST_LAYERS * room / pair)), fewest


def synthetic_model(config: DeepseekV4Config, backend: str) -> Model:
    """A model with random weights on a backend, evaluated."""
    model = Model(config, backend=backend)
    plan = release_plan(config)
    pack_layers(model, plan.parameters)
    forms = plan.loaded("F32" if backend == "cpu" else "BF16")
    model.load_weights(list(_arrays(config, forms)), strict=True)
    model.join()
    mx.eval(model.parameters())
    return model


def _arrays(
    config: DeepseekV4Config, forms: Iterable[tuple[str, TensorForm]]
) -> Iterator[tuple[str, mx.array]]:
    for number, (name, form) in enumerate(forms):
        made = array_of(config, name, form.shape, MLX_DTYPES[form.dtype], mx.random.key(number))
        mx.eval(made)  # one by one, so that what made it is gone
        yield name, made


def array_of(
    config: DeepseekV4Config, name: str, shape: Sequence[int], dtype: mx.Dtype, key: mx.array
) -> mx.array:
    """Values for a parameter of this name and form: finite, of about the size of a release's."""
    if dtype == mx.uint32:
        stacked = len(shape) == 3  # experts, in FP4 of which every code is a number
        return words(shape, key, _ANY if stacked else _FINITE)
    if dtype == mx.uint8:
        # Rows whose sums of products are about as large as what is multiplied.
        width = shape[-1] * 32
        return mx.full(shape, _ONE_SCALE - round(np.log2(2.0 * np.sqrt(width))), dtype)
    if mx.issubdtype(dtype, mx.integer):
        return mx.random.randint(0, config.n_routed_experts, shape, dtype, key=key)
    if "norm" in name and len(shape) == 1:
        return mx.ones(shape, dtype)
    spread = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1
    return (float(spread) * mx.random.normal(shape, key=key)).astype(dtype)


def words(shape: Sequence[int], key: mx.array, mask: int) -> mx.array:
    """Random words with the bits of `mask`; large arrays repeat a block whose length is odd, so
    that no two rows or experts begin alike."""
    size = prod(shape)
    block = mx.random.randint(0, 256, (4 * min(size, _BLOCK_WORDS),), mx.uint8, key=key)
    block = block.view(mx.uint32) & mx.array(mask, mx.uint32)
    return mx.tile(block, -(-size // block.size))[:size].reshape(shape)


def flops_per_token(config: DeepseekV4Config) -> int:
    """Multiplications and additions of one token's products with weights, without the head's,
    which a prompt needs once."""
    return sum(_flops(config, tensor) for tensor in backbone_tensors(config))


def _flops(config: DeepseekV4Config, tensor: TensorSpec) -> int:
    if tensor.name.endswith((".scale", "tid2eid")) or len(tensor.shape) < 2:
        return 0
    if tensor.name in ("embed.weight", "head.weight") or tensor.name.endswith("ape"):
        return 0
    count = 2 * prod(tensor.shape) * (2 if tensor.dtype == "I8" else 1)
    if ".experts." in tensor.name:
        return count * config.num_experts_per_tok // config.n_routed_experts
    return count
