"""Tiny checkpoints in the official format, with seeded weights that make a lively network.

Same names, dtypes, blocks and files as the release, a few megabytes in size. The magnitudes are
chosen so that comparing numbers means something: activations of order one in every sublayer,
attention neither uniform nor one-hot, block scales that differ, clamps that bite, logits with a
standard deviation between one and two. The file has more than 300 lines because what a tensor holds
and how it is stored are chosen together.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from dsv4_mlx.files.safetensors_files import TensorEntry, read_header
from dsv4_mlx.files.safetensors_writing import TensorPlan, plan_array, write_file
from dsv4_mlx.release.config import FLASH, DeepseekV4Config, DSpark, RopeScaling
from dsv4_mlx.release.naming import Target, is_draft, transformers_name, translate
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors, dspark_tensors
from dsv4_mlx.testing import number_formats

TINY = FLASH.replace(
    vocab_size=512,
    hidden_size=128,
    num_hidden_layers=6,
    num_attention_heads=4,
    head_dim=128,
    q_lora_rank=96,
    o_groups=2,
    o_lora_rank=80,  # 160 rows: blocks end ragged, and one block crosses the two groups
    moe_intermediate_size=96,
    n_routed_experts=8,
    num_experts_per_tok=2,
    num_hash_layers=2,
    swiglu_limit=2.0,  # low enough that the clamps bite
    sliding_window=32,
    index_n_heads=32,  # fewer heads tie at zero after the ReLU, and top-k becomes arbitrary
    index_topk=16,
    max_position_embeddings=16384,
    rope_scaling=RopeScaling(
        factor=16.0, original_max_position_embeddings=1024, beta_fast=32.0, beta_slow=1.0
    ),
    compress_ratios=(0, 4, 128, 4, 128, 4, 0),
)
"""Every kind of layer, hash and score routing, one MTP block; 6 MB."""

TINY512 = TINY.replace(head_dim=512, sliding_window=128, index_topk=64)
"""TINY with the release's attention geometry, the one its kernels are written for."""

LONG = FLASH.replace(
    vocab_size=512,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    head_dim=64,
    qk_rope_head_dim=32,
    q_lora_rank=64,
    o_groups=2,
    o_lora_rank=64,
    moe_intermediate_size=64,
    n_routed_experts=4,
    num_experts_per_tok=2,
    num_hash_layers=1,
    index_n_heads=4,
    index_head_dim=32,
    index_topk=64,
    compress_ratios=(0, 4, 128),
    num_nextn_predict_layers=0,
)
"""One layer of each kind, tiny, with the release's context of a million tokens."""

DSPARK = DSpark(
    block_size=5, noise_token_id=TINY.vocab_size - 1, target_layer_ids=(3, 4, 5), markov_rank=16
)


def write_tiny_checkpoint(
    folder: str | Path,
    config: DeepseekV4Config = TINY,
    seed: int = 0,
    *,
    shards: int = 1,
    base: bool = False,
    dspark: bool = False,
    transformers_names: bool = False,
    tokenizer: bool = True,
) -> Path:
    """Write a whole official checkpoint folder and return it.

    `base` stores routed experts as the Base releases do, `dspark` adds draft stages as the later
    Flash releases do, `transformers_names` names, stacks and leaves out what transformers does.
    Shards split by size, not by layer, as the release's do. The same arguments give the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _variant(config, base, dspark)
    tensors = list(_kept_tensors(config, seed))
    if transformers_names:
        tensors = list(_as_transformers(tensors))
    _write_shards(folder, tensors, shards)
    keys = keys_of(config)
    if config.expert_dtype == "fp4":
        del keys["expert_dtype"]  # as in the first Flash release, where a missing key means fp4
    _write_json(folder / "config.json", keys)
    if tokenizer:
        from dsv4_mlx.testing.tokenizers import write_tokenizer

        write_tokenizer(folder, vocab_size=config.vocab_size)
    _write_json(folder / "generation_config.json", _generation_config(config))
    return folder


def edit_checkpoint(folder: str | Path, changes: Mapping[str, TensorPlan | None]) -> None:
    """Replace, add (a new name) or drop (None) tensors of an official folder; one shard remains."""
    folder = Path(folder)
    tensors: dict[str, TensorPlan | None] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, entry in read_header(path).items():
            tensors[name] = plan_array(name, entry.dtype, entry.read())
        path.unlink()
    kept = [tensor for tensor in (tensors | dict(changes)).values() if tensor is not None]
    _write_shards(folder, kept, 1)


def tiny_tensors(config: DeepseekV4Config, seed: int = 0) -> Iterator[TensorPlan]:
    """The tensors of `write_tiny_checkpoint`, ready to be written; draft stages come last."""
    specs = {spec.name: spec for spec in checkpoint_tensors(config)}
    if config.dspark is not None:
        specs |= {spec.name: spec for spec in dspark_tensors(config)}
    for name, spec in specs.items():
        if not name.endswith(".scale"):
            scale = specs.get(name.removesuffix("weight") + "scale")
            yield from _tensor(config, spec, scale, _generator(seed, name))


@functools.lru_cache(maxsize=4)  # a test run writes the same few checkpoints hundreds of times
def _kept_tensors(config: DeepseekV4Config, seed: int) -> tuple[TensorPlan, ...]:
    return tuple(tiny_tensors(config, seed))


def dequantized_tensors(folder: str | Path) -> dict[str, np.ndarray]:
    """Every weight of an official folder by its official name, as float32 (tid2eid as int64).

    Exact: FP4 and FP8 values times powers of two are float32 numbers. Numpy only.
    """
    return dict(each_dequantized(folder))


def each_dequantized(folder: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """What `dequantized_tensors` collects, one tensor in memory at a time."""
    entries: dict[str, TensorEntry] = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        entries |= read_header(path)
    for name in entries:
        if not name.endswith(".scale"):
            yield name, _dequantized(entries, name)


def _dequantized(entries: dict[str, TensorEntry], name: str) -> np.ndarray:
    entry = entries[name]
    values = entry.read()
    if entry.dtype == "BF16":
        return number_formats.bfloat16_values(values)
    if entry.dtype not in ("I8", "F8_E4M3"):
        return values
    scales = entries[name.removesuffix("weight") + "scale"].read()
    if _is_table(name):
        return number_formats.dequantize_fp8_rows(values, scales)
    formats = {"I8": number_formats.dequantize_fp4, "F8_E4M3": number_formats.dequantize_fp8}
    return formats[entry.dtype](values, scales)


def _is_table(name: str) -> bool:
    """Whether a tensor is one of Engram's tables, whose rows have scales of their own."""
    return name.endswith(".engram.embed.weight")


def _variant(config: DeepseekV4Config, base: bool, dspark: bool) -> DeepseekV4Config:
    if base:
        config = config.replace(expert_dtype="fp8")
    if dspark:
        config = config.replace(dspark=DSPARK, compress_ratios=(*config.backbone_ratios, 0, 0, 0))
    return config


def _generator(seed: int, name: str) -> np.random.Generator:
    """One stream per tensor, so that a tensor's values depend on no other tensor."""
    return np.random.default_rng([seed, *name.encode()])


def _tensor(
    config: DeepseekV4Config,
    spec: TensorSpec,
    scale: TensorSpec | None,
    rng: np.random.Generator,
) -> Iterator[TensorPlan]:
    if spec.name.endswith("tid2eid"):
        yield plan_array(spec.name, spec.dtype, _expert_table(config, spec.shape, rng))
        return
    shape = spec.shape
    if spec.dtype == "I8":
        shape = (shape[0], 2 * shape[1])
    values = _values(config, spec.name, shape, rng)
    if scale is None:
        stored = number_formats.bfloat16_bits(values) if spec.dtype == "BF16" else values
        yield plan_array(spec.name, spec.dtype, stored)
        return
    codes, scales = _quantizer(spec, scale)(values)
    yield plan_array(spec.name, spec.dtype, codes)
    yield plan_array(scale.name, scale.dtype, scales)


def _quantizer(spec: TensorSpec, scale: TensorSpec) -> Callable:
    if _is_table(spec.name):
        return number_formats.quantize_fp8_rows
    if spec.dtype == "I8":
        return number_formats.quantize_fp4
    if scale.dtype == "F32":
        return number_formats.quantize_fp8_float_scales
    return number_formats.quantize_fp8


# Gain of each matrix over 1/sqrt(inputs), by what its name ends in; the first match counts.
_GAINS = (
    ("head.weight", 1.4),
    ("attn.wo_b.weight", 3.0),  # attention averages its values; this brings them back to order one
    ("attn.wkv.weight", 1.0),
    ("wgate.weight", 1.5),
    ("gate.weight", 2.0),
    ("w2.weight", 2.0),
    ("proj.weight", 0.7),
)


def _values(
    config: DeepseekV4Config, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """float32 values of one tensor; see the module's docstring for what they aim at."""
    normal = rng.standard_normal(shape).astype(np.float32)
    if name == "embed.weight" or _is_table(name):
        return normal
    if name.endswith(("norm.weight", "engram.q_weight", "engram.k_weight")):
        return 1 + 0.15 * normal
    if name.endswith("hc_head_scale") or "_scale" in name:
        return 0.8 + 0.15 * normal
    if name.endswith("_base"):
        return _hyper_connection_base(config, normal)
    if name.endswith("attn_sink"):
        return 1.5 + normal
    if name.endswith("gate.bias"):
        return 0.3 * normal
    if name.endswith(".ape"):
        return 0.7 * normal
    gain = next((gain for ending, gain in _GAINS if name.endswith(ending)), 1.0)
    return gain * shape[-1] ** -0.5 * normal * _uneven(shape, rng)


def _uneven(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Factors that make rows and 128-wide column blocks differ, so that block scales do too."""
    rows = np.exp(0.3 * rng.standard_normal((shape[0], 1)))
    columns = np.exp(0.3 * rng.standard_normal((1, -(-shape[1] // 64))))
    uneven = rows * columns.repeat(64, 1)[:, : shape[1]]
    return (uneven / np.sqrt(np.mean(uneven**2))).astype(np.float32)


def _hyper_connection_base(config: DeepseekV4Config, normal: np.ndarray) -> np.ndarray:
    """Bases that let each stream keep most of itself, as trained ones do."""
    streams, base = config.hc_mult, 0.5 * normal
    if base.size > streams:
        base[2 * streams :: streams + 1] += 1.5  # the diagonal of the mixing matrix
    return base


def _expert_table(
    config: DeepseekV4Config, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    scores = rng.random((shape[0], config.n_routed_experts))
    return scores.argsort(1)[:, : shape[1]].astype(np.int64)


def _as_transformers(tensors: list[TensorPlan]) -> Iterator[TensorPlan]:
    """The backbone of `tensors` as transformers saves it: experts stacked, no draft blocks."""
    places: dict[str, list[tuple[Target, TensorPlan]]] = {}
    for tensor in tensors:
        target = translate(tensor.name)
        if target is not None and not is_draft(tensor.name):
            places.setdefault(transformers_name(target), []).append((target, tensor))
    for name, parts in places.items():
        parts.sort(key=lambda part: (part[0].expert or 0, part[0].half))
        shape = parts[0][1].shape
        if parts[0][0].expert is not None:
            experts = 1 + max(target.expert or 0 for target, _ in parts)
            shape = (experts, len(parts) // experts * shape[0], *shape[1:])
        yield TensorPlan(name, parts[0][1].dtype, shape, _joined([part for _, part in parts]))


def _joined(tensors: list[TensorPlan]) -> Callable[[], Iterator[bytes | memoryview]]:
    return lambda: (chunk for tensor in tensors for chunk in tensor.chunks())


def _write_shards(folder: Path, tensors: list[TensorPlan], count: int) -> None:
    total = sum(tensor.nbytes for tensor in tensors)
    groups: list[list[TensorPlan]] = [[] for _ in range(count)]
    position = 0
    for tensor in tensors:
        groups[min(count - 1, position * count // total)].append(tensor)
        position += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        write_file(folder / file, group)
        weight_map |= {tensor.name: file for tensor in group}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _generation_config(config: DeepseekV4Config) -> dict[str, object]:
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
