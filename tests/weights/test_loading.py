"""Loading changes no value: every weight equals the checkpoint's own, for all codes and formats."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import BackendError, UsageError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load
from dsv4_mlx.release.naming import translate
from dsv4_mlx.testing import number_formats
from dsv4_mlx.testing.checkpoints import (
    TINY,
    dequantized_tensors,
    edit_checkpoint,
    write_tiny_checkpoint,
)
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import SCALE_BYTES, WeightStorage
from dsv4_mlx.weights.reading import dense_dtype, read_weights
from metal_kernels import registry

SMALL = TINY.replace(
    num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
# Layers of ratio 0, 4 and 128 have 23, 33 and 27 parameters; embedding, head and so on 6.
PARAMETERS, MTP_PARAMETERS = 23 + 33 + 27 + 6, 31


def small(folder: Path, config=SMALL, **options) -> Path:
    return write_tiny_checkpoint(folder, config, tokenizer=False, **options)


def read(folder: Path, dtype=mx.float32) -> tuple[dict, dict[str, mx.array]]:
    """Parameters and arrays of a folder, by our names."""
    checkpoint = open_checkpoint(folder)
    plan = plan_parameters(checkpoint)
    return {one.name: one for one in plan.parameters}, dict(read_weights(checkpoint, plan, dtype))


def values(parameter, weights: dict[str, mx.array]) -> np.ndarray:
    """The float32 values of a parameter, unpacked by MLX."""
    weight = weights[parameter.name]
    if parameter.storage in (WeightStorage.MXFP4, WeightStorage.MXFP8):
        scales = weights[f"{parameter.module}.scales"]
        mode = parameter.storage.value
        weight = mx.dequantize(weight, scales, mode=mode, dtype=mx.float32)
    return np.array(weight.astype(mx.float32))


def assert_equals_official(folder: Path, source: Path) -> int:
    """Compare all parameters of `folder` with the official `source`, bit for bit; their number."""
    parameters, weights = read(folder)
    expected: dict[str, list] = {}
    for name, array in dequantized_tensors(source).items():
        target = translate(name)
        if target is not None:
            part = (target.expert or 0, target.half, array)
            expected.setdefault(target.name, []).append(part)
    for name, parameter in parameters.items():
        parts = [array for _, _, array in sorted(expected[name], key=lambda part: part[:2])]
        whole = np.stack(parts).reshape(parameter.shape)
        np.testing.assert_array_equal(values(parameter, weights), whole, err_msg=name)
    return len(parameters)


@pytest.mark.parametrize(
    "options",
    [{}, {"shards": 5}, {"base": True}],
    ids=["one shard", "experts split over shards", "base"],
)
def test_every_weight_equals_the_checkpoint(tmp_path, options):
    folder = small(tmp_path, **options)
    assert assert_equals_official(folder, folder) == PARAMETERS + MTP_PARAMETERS


def test_transformers_names_load_to_the_same_weights_without_mtp(tmp_path):
    official = small(tmp_path / "official")
    renamed = small(tmp_path / "renamed", transformers_names=True)
    assert open_checkpoint(renamed).config.num_mtp_layers == 0
    assert assert_equals_official(renamed, official) == PARAMETERS


def test_all_fp4_codes_and_all_exact_scales(tmp_path):
    folder = small(tmp_path)
    low, high = SCALE_BYTES[WeightStorage.MXFP4]
    codes = np.arange(96 * 64, dtype=np.int64).reshape(96, 64)
    name = "layers.0.ffn.experts.0.w1"
    edit_checkpoint(
        folder,
        {
            f"{name}.weight": plan_array(f"{name}.weight", "I8", codes.astype(np.int8)),
            f"{name}.scale": plan_array(
                f"{name}.scale",
                "F8_E8M0",
                np.resize(np.arange(low, high + 1, dtype=np.uint8), (96, 4)),
            ),
        },
    )
    assert_equals_official(folder, folder)


def test_all_fp8_codes_and_all_exact_scales(tmp_path):
    heads = 256  # 32,768 rows: a block for each scale byte
    folder = small(tmp_path, SMALL.replace(index_n_heads=heads))
    low, high = SCALE_BYTES[WeightStorage.MXFP8]
    finite = np.array([code for code in range(256) if code & 127 != 127], np.uint8)
    name = "layers.1.attn.indexer.wq_b"
    shape = (heads * SMALL.index_head_dim, SMALL.q_lora_rank)
    edit_checkpoint(
        folder,
        {
            f"{name}.weight": plan_array(f"{name}.weight", "F8_E4M3", np.resize(finite, shape)),
            f"{name}.scale": plan_array(
                f"{name}.scale",
                "F8_E8M0",
                np.resize(np.arange(low, high + 1, dtype=np.uint8), (256, 1)),
            ),
        },
    )
    assert_equals_official(folder, folder)


def test_second_account_of_the_codes_agrees_with_mlx():
    """The tables that the tests rely on, against MLX's own conversion."""
    codes = np.arange(256, dtype=np.uint8)
    from_mlx = np.array(mx.from_fp8(mx.array(codes), mx.float32))
    finite = codes & 127 != 127
    np.testing.assert_array_equal(number_formats.E4M3_CODES[finite], from_mlx[finite])
    assert np.isnan(number_formats.E4M3_CODES[~finite]).all()
    encoded = number_formats.encode_sign_magnitude(
        number_formats.E4M3_CODES[finite], number_formats.E4M3_VALUES, 128
    )
    np.testing.assert_array_equal(encoded, codes[finite])


@pytest.mark.parametrize(
    ("value", "code"),
    [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5, 6), (-5, 14), (7, 7)],
)
def test_ties_of_fp4_go_to_the_even_code(value, code):
    encoded = number_formats.encode_sign_magnitude(np.array([value]), number_formats.E2M1_VALUES, 8)
    assert encoded[0] == code


@pytest.mark.parametrize("power", [-3, 0, 4])
def test_a_block_maximum_at_the_limit_keeps_its_scale(power):
    scale = number_formats.power_of_two_scale(np.array([448 * 2.0**power]), 448)
    assert scale[0] == 127 + power


def test_float_scales_that_are_powers_of_two_stay_packed(tmp_path):
    folder = small(tmp_path, base=True)
    scales = {
        name: plan_array(name, "F32", np.exp2(np.round(np.log2(entry.read()))))
        for name, entry in read_header(next(folder.glob("*.safetensors"))).items()
        if name.endswith(".scale") and "experts" in name
    }
    edit_checkpoint(folder, scales)
    parameters, _ = read(folder)
    assert parameters["model.layers.0.mlp.experts.down_proj.weight"].storage is WeightStorage.MXFP8
    assert parameters["model.layers.0.self_attn.kv_proj.weight"].storage is WeightStorage.BLOCK_FP8
    assert_equals_official(folder, folder)


def test_widths_that_mxfp8_cannot_hold_are_multiplied_out_exactly(tmp_path):
    folder = small(tmp_path, SMALL.replace(q_lora_rank=200))
    parameters, _ = read(folder)
    assert parameters["model.layers.0.self_attn.q_b_proj.weight"].storage is WeightStorage.BLOCK_FP8
    assert parameters["model.layers.0.self_attn.q_a_proj.weight"].storage is WeightStorage.MXFP8
    assert_equals_official(folder, folder)


def test_experts_stored_as_unsigned_bytes_are_the_same(tmp_path):
    folder = small(tmp_path)
    entries = read_header(next(folder.glob("*.safetensors")))
    unsigned = {
        name: plan_array(name, "U8", entry.read().view(np.uint8))
        for name, entry in entries.items()
        if entry.dtype == "I8"
    }
    before = read(folder)[1]
    edit_checkpoint(folder, unsigned)
    after = read(folder)[1]
    assert all(mx.array_equal(before[name], after[name]).item() for name in before)


def test_base_checkpoint_is_recognised_by_its_experts(tmp_path):
    folder = small(tmp_path, base=True)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"expert_dtype": "fp8",', ""))
    assert open_checkpoint(folder).config.expert_dtype == "fp8"
    assert_equals_official(folder, folder)


def test_draft_stages_are_apart_from_the_model(tmp_path):
    folder = small(tmp_path, dspark=True)
    plan = plan_parameters(open_checkpoint(folder))
    names = [one.name for one in plan.drafts]
    assert "mtp.0.main_proj.weight" in names
    assert all(name.startswith("mtp.") for name in names)
    assert not plan.set_aside
    assert not any(one.name.startswith("mtp.") for one in plan.parameters)


@pytest.mark.parametrize("prefix", ["mtp.1.", "mtp."], ids=["counted from one", "not counted"])
def test_mtp_blocks_of_other_numbering_load(tmp_path, prefix):
    official = small(tmp_path / "official")
    folder = small(tmp_path / "renamed")
    changes = {}
    for name, entry in read_header(next(folder.glob("*.safetensors"))).items():
        if name.startswith("mtp.0."):
            renamed = name.replace("mtp.0.", prefix)
            changes |= {name: None, renamed: plan_array(renamed, entry.dtype, entry.read())}
    edit_checkpoint(folder, changes)
    assert assert_equals_official(folder, official) == PARAMETERS + MTP_PARAMETERS


def test_copies_of_the_embedding_in_draft_blocks_are_set_aside(tmp_path):
    folder = small(tmp_path)
    entry = read_header(next(folder.glob("*.safetensors")))["embed.weight"]
    name = "mtp.0.embed.weight"
    edit_checkpoint(folder, {name: plan_array(name, "BF16", entry.read())})
    plan = plan_parameters(open_checkpoint(folder))
    assert [entry.name for entry in plan.set_aside] == [name]


def test_default_dtypes_on_the_cpu(tmp_path):
    _, weights = read(small(tmp_path), dense_dtype(None, "cpu"))
    assert weights["lm_head.weight"].dtype == mx.float32
    assert weights["model.embed_tokens.weight"].dtype == mx.bfloat16
    assert weights["model.norm.weight"].dtype == mx.float32
    assert weights["model.layers.0.mlp.gate.tid2eid"].dtype == mx.int32
    assert weights["model.layers.0.mlp.experts.down_proj.weight"].dtype == mx.uint32
    assert weights["model.layers.0.mlp.experts.down_proj.scales"].dtype == mx.uint8


def test_bfloat16_matrices_keep_their_stored_bits_and_norms_are_float32(tmp_path):
    folder = small(tmp_path)
    _, weights = read(folder, mx.bfloat16)
    stored = read_header(next(folder.glob("*.safetensors")))["head.weight"].read()
    np.testing.assert_array_equal(np.array(weights["lm_head.weight"].view(mx.uint16)), stored)
    assert weights["model.norm.weight"].dtype == mx.float32
    assert weights["model.layers.0.attn_hc.fn"].dtype == mx.float32


def test_other_dtypes_and_absent_backends_are_refused():
    with pytest.raises(UsageError, match="float16"):
        dense_dtype(mx.float16, "cpu")
    with pytest.raises(BackendError, match="nonsense"):
        load("nowhere", backend="nonsense")


def test_the_backend_is_resolved_once(tmp_path, monkeypatch):
    resolved, resolve = [], registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda name: resolved.append(name) or resolve(name))
    load(write_tiny_checkpoint(tmp_path, SMALL), backend="cpu")
    assert resolved == ["cpu"]


def test_load_gives_a_model_that_runs_and_its_tokenizer(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, SMALL)
    model, tokenizer = load(folder, backend="cpu")
    tokens = tokenizer.encode("The quick brown fox")
    logits = model(mx.array([tokens]))
    assert logits.shape == (1, len(tokens), SMALL.vocab_size)
    assert 0.5 < mx.std(logits).item() < 3
    assert len(model.mtp) == 1


def test_fingerprints_tell_weights_apart(tmp_path):
    def digest(folder: Path) -> str:
        checkpoint = open_checkpoint(folder)
        return fingerprint(checkpoint, plan_parameters(checkpoint))

    first = digest(small(tmp_path / "a"))
    assert first == digest(small(tmp_path / "b", shards=3))
    assert first != digest(small(tmp_path / "c", seed=1))
    assert first != digest(small(tmp_path / "d", SMALL.replace(swiglu_limit=3.0)))


def test_stacking_experts_holds_them_about_once(tmp_path):
    """Stacking all experts in one step would hold a layer's twice."""
    config = SMALL.replace(num_hidden_layers=1, compress_ratios=(0, 0), n_routed_experts=96)
    checkpoint = open_checkpoint(small(tmp_path, config))
    weights, peaks = {}, {}
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for name, array in read_weights(checkpoint, plan_parameters(checkpoint), mx.float32):
        weights[name], peaks[name] = array, mx.get_peak_memory() - before
        before = mx.get_active_memory()
        mx.reset_peak_memory()
    for matrix in ("gate_up_proj.weight", "down_proj.weight", "gate_up_proj.scales"):
        name = f"model.layers.0.mlp.experts.{matrix}"
        assert peaks[name] < 1.25 * weights[name].nbytes


def test_a_snapshot_of_links_loads(tmp_path):
    """Download caches keep the files elsewhere and link to them."""
    blobs = small(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert_equals_official(snapshot, blobs)
