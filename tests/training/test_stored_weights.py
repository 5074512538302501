"""What is trained is what is stored: rounding in training equals the files, bit for bit."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.release.naming import translate
from dsv4_mlx.release.tensors import checkpoint_tensors
from dsv4_mlx.testing import number_formats
from dsv4_mlx.testing.checkpoints import TINY, dequantized_tensors
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.stored_weights import rounded, stored_dtypes, write_release


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A folder written from seeded parameters, and those parameters."""
    folder = tmp_path_factory.mktemp("release")
    parameters = initial_parameters(TINY, 3)
    write_release(folder, TINY, parameters, shard_bytes=2 << 20)
    return folder, parameters


def test_the_files_hold_exactly_the_tensors_of_the_format(release):
    folder, _ = release
    found = {}
    for path in folder.glob("model-*.safetensors"):
        found |= {n: (e.dtype, e.shape) for n, e in read_header(path).items()}
    assert found == {spec.name: (spec.dtype, spec.shape) for spec in checkpoint_tensors(TINY)}
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def test_training_sees_the_values_that_are_stored(release):
    folder, parameters = release
    seen = rounded(parameters, stored_dtypes(TINY))
    for name, stored in dequantized_tensors(folder).items():
        target = translate(name)
        values = np.array(seen[target.name])
        if target.expert is not None:
            values = values[target.expert]
            half = len(values) // 2
            if target.module.endswith("gate_up_proj"):
                values = values[target.half * half : (target.half + 1) * half]
        np.testing.assert_array_equal(values, stored, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "quantize", "dequantize"),
    [
        ("F8_E4M3", number_formats.quantize_fp8, number_formats.dequantize_fp8),
        ("I8", number_formats.quantize_fp4, number_formats.dequantize_fp4),
    ],
)
def test_rounding_equals_the_numpy_formats(dtype, quantize, dequantize):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((200, 160)).astype(np.float32)
    weight *= np.exp(rng.standard_normal((200, 1))).astype(np.float32)
    mine = rounded({"w": mx.array(weight)}, {"w": dtype})["w"]
    np.testing.assert_array_equal(np.array(mine), dequantize(*quantize(weight)))


def test_rounding_twice_changes_nothing(release):
    _, parameters = release
    dtypes = stored_dtypes(TINY)
    once = rounded(parameters, dtypes)
    for name, value in rounded(once, dtypes).items():
        assert mx.array_equal(value, once[name]), name
