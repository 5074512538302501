"""What parameters are made of, said by their forms, against what files hold and loading makes."""

from pathlib import Path

import mlx.core as mx
import pytest

from convert.app import main
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from dsv4_mlx.weights.forms import (
    AffineForm,
    BlockFp8Form,
    DenseForm,
    Mxfp4Form,
    Mxfp8Form,
    WeightForm,
    fp8_form,
    total_bytes,
)
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import MLX_DTYPES, read_weights

SMALL = TINY.replace(
    num_hidden_layers=3, compress_ratios=(0, 4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
MATRIX = (2, 200, 160)
FORMS: dict[str, tuple[WeightForm, dict[str, str], dict[str, str], dict[str, str]]] = {
    "mxfp4": (
        Mxfp4Form(),
        {
            "weight": "I8 2x200x80, U8 2x200x80, U32 2x200x20, BF16 2x200x160",
            "scales": "F8_E8M0 2x200x5, U8 2x200x5",
        },
        {"weight": "U32 2x200x20", "scales": "U8 2x200x5"},
        {"weight": "U32 2x200x20", "scales": "U8 2x200x5"},
    ),
    "block fp8": (
        BlockFp8Form(128),
        {
            "weight": "F8_E4M3 2x200x160, U32 2x200x40, BF16 2x200x160",
            "scales": "F8_E8M0 2x2x2, F32 2x2x2, U8 2x2x2, U8 2x200x5",
            "block_scales": "F32 2x200x2",
        },
        {"weight": "F8_E4M3 2x200x160", "block_scales": "F32 2x200x2"},
        {"weight": "F32 2x200x160"},
    ),
    "mxfp8": (
        Mxfp8Form(64),
        {
            "weight": "F8_E4M3 2x200x160, U32 2x200x40, BF16 2x200x160",
            "scales": "F8_E8M0 2x4x3, F32 2x4x3, U8 2x4x3, U8 2x200x5",
            "block_scales": "F32 2x200x3",
        },
        {"weight": "U32 2x200x40", "scales": "U8 2x200x5"},
        {"weight": "U32 2x200x40", "scales": "U8 2x200x5"},
    ),
    "affine": (
        AffineForm(3, 32),
        {
            "weight": "U32 2x200x15",
            "scales": "BF16 2x200x5, F32 2x200x5",
            "biases": "BF16 2x200x5, F32 2x200x5",
        },
        {"weight": "U32 2x200x15", "scales": "BF16 2x200x5", "biases": "BF16 2x200x5"},
        {"weight": "U32 2x200x15", "scales": "F32 2x200x5", "biases": "F32 2x200x5"},
    ),
    "dense": (
        DenseForm("BF16"),
        {"weight": "BF16 2x200x160"},
        {"weight": "BF16 2x200x160"},
        {"weight": "F32 2x200x160"},
    ),
    "table": (
        DenseForm("BF16", table=True),
        {"weight": "BF16 2x200x160"},
        {"weight": "BF16 2x200x160"},
        {"weight": "BF16 2x200x160"},
    ),
    "experts of tokens": (
        DenseForm("I64"),
        {"weight": "I64 2x200x160, I32 2x200x160"},
        {"weight": "I32 2x200x160"},
        {"weight": "I32 2x200x160"},
    ),
}


def told(form) -> str:
    return f"{form.dtype} {'x'.join(map(str, form.shape))}"


@pytest.mark.parametrize("name", FORMS)
def test_a_form_names_every_tensor_in_files_and_in_memory(name: str) -> None:
    form, accepted, written, loaded = FORMS[name]
    found = form.accepted(MATRIX)
    assert {field: ", ".join(map(told, forms)) for field, forms in found.items()} == accepted
    assert {field: told(one) for field, one in form.written(MATRIX).items()} == written
    assert {field: told(one) for field, one in form.loaded(MATRIX, "F32").items()} == loaded


def test_norms_are_float32_in_memory_whatever_the_dtype_of_matrices() -> None:
    norm = DenseForm("BF16")
    assert [told(one) for one in norm.accepted((7,))["weight"]] == ["BF16 7", "F32 7"]
    assert told(norm.written((7,))["weight"]) == "BF16 7"
    assert told(norm.loaded((7,), "BF16")["weight"]) == "F32 7"
    assert told(DenseForm("F32").loaded((7, 3), "BF16")["weight"]) == "F32 7x3"


def test_fp8_is_packed_where_a_width_has_whole_groups() -> None:
    assert fp8_form(160, 128) == Mxfp8Form(128)
    assert fp8_form(144, 128) == BlockFp8Form(128)


def test_bytes_are_those_of_all_tensors() -> None:
    assert total_bytes(Mxfp4Form().loaded(MATRIX, "BF16")) == 2 * 200 * (160 // 2 + 160 // 32)


def arrays(plan: ParameterPlan, dense: str) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    return {name: (form.shape, MLX_DTYPES[form.dtype]) for name, form in plan.loaded(dense)}


VARIANTS = {
    "official": ({}, None),
    "official, converted": ({}, "native"),
    "official, quantized": ({}, "q3"),
    "base": ({"base": True}, None),
    "base, converted": ({"base": True}, "native"),
    "transformers": ({"transformers_names": True}, None),
    "dspark": ({"dspark": True}, None),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plan_tells_every_array_that_is_loaded(variant: str, tmp_path: Path) -> None:
    options, recipe = VARIANTS[variant]
    folder = write_tiny_checkpoint(tmp_path / "source", SMALL, **options)
    if recipe is not None:
        assert main([str(folder), str(tmp_path / "out"), "--recipe", recipe]) == 0
        folder = tmp_path / "out"
    checkpoint = open_checkpoint(folder)
    plan = plan_parameters(checkpoint)
    for dense, dtype in (("BF16", mx.bfloat16), ("F32", mx.float32)):
        read = read_weights(checkpoint, plan, dtype)
        assert arrays(plan, dense) == {name: (one.shape, one.dtype) for name, one in read}
