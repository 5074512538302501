"""The C of a training step against the same step in ops: losses and every gradient."""

import ctypes

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.blas import build
from dsv4_mlx.training import index_scores, native, native_index
from dsv4_mlx.training.data.batches import Batch
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.objective import NanoObjective
from tests.training.small import SMALL

# Heads wider than their residual and their share of the output, as nano's are.
WIDE = SMALL.replace(
    head_dim=96, q_lora_rank=32, o_lora_rank=48, num_attention_heads=4, index_topk=4
)
UNTRAINED = ("tid2eid", "e_score_correction_bias")
needs_library = pytest.mark.skipif(native.library() is None, reason=str(native._loaded()))


def step(indexing, shape=(2, 150), **options):
    """Loss, extras and gradients of nano's objective, on parameters that are no longer even."""
    parameters = initial_parameters(WIDE, 0)
    fixed = {name: parameters.pop(name) for name in list(parameters) if name.endswith(UNTRAINED)}
    rng = np.random.default_rng(2)
    for name, value in parameters.items():
        parameters[name] = value + 0.05 * mx.array(rng.standard_normal(value.shape, np.float32))
    tokens = rng.integers(0, 64, (shape[0], shape[1] + 2)).astype(np.int32)
    weights = rng.choice([0, 0.1, 1], tokens.shape).astype(np.float32)
    objective = NanoObjective(WIDE, fixed, **options)
    objective.set_indexing(indexing)
    (loss, extras), found = mx.value_and_grad(objective)(parameters, Batch(tokens, weights))
    return {"loss": loss, **extras}, found


@needs_library
@pytest.mark.parametrize("indexing", ["frozen", "off", "dense", "sparse"])
def test_losses_and_gradients_are_those_of_ops(indexing, monkeypatch):
    losses, found = step(indexing)
    monkeypatch.setattr(native, "library", lambda: None)
    expected_losses, expected = step(indexing)
    for name, value in expected_losses.items():
        np.testing.assert_allclose(np.array(losses[name]), np.array(value), rtol=1e-4, err_msg=name)
    for name, value in expected.items():
        error = mx.abs(found[name] - value).max().item()
        assert error <= 2e-4 * mx.abs(value).max().item() + 1e-7, name


@needs_library
def test_the_same_step_gives_the_same_bits():
    (losses, found), (again, repeated) = (step("sparse", (1, 70)) for _ in range(2))
    assert all(mx.array_equal(losses[name], again[name]).item() for name in losses)
    assert all(mx.array_equal(found[name], repeated[name]).item() for name in found)


def test_without_a_compiler_there_is_no_library_and_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    native._loaded.cache_clear()
    try:
        assert native.library() is None
        line = native.notice()
        assert line is not None and "slower" in line and "\n" not in line
        assert str(native._loaded()).splitlines()[0] in line
    finally:
        native._loaded.cache_clear()


@needs_library
def test_nothing_is_said_where_training_computes_in_c():
    assert native.notice() is None


def test_a_compiler_that_fails_is_told_of_in_one_line(monkeypatch):
    monkeypatch.setattr(native, "_loaded", lambda: "cc could not compile x: 1 error\nx.c:3: no")
    assert str(native.notice()).endswith("which is slower: cc could not compile x: 1 error")


def test_a_library_is_compiled_anew_when_a_source_or_a_header_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    header, source = tmp_path / "value.h", tmp_path / "source.c"
    source.write_text('#include "value.h"\nint answer(void) { return VALUE; }\n')
    found = []
    for value in (1, 2):
        header.write_text(f"#define VALUE {value}\n")
        try:
            loaded = build.load(build.CLibrary("answers", [source], headers=[header]))
        except build.NotBuilt as error:
            pytest.skip(str(error))
        assert isinstance(loaded, ctypes.CDLL)
        found.append(loaded.answer())
    assert found == [1, 2]


@needs_library
def test_the_choice_takes_equal_scores_from_the_lowest_place_and_never_nan():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 4, (3, 40, 30)).astype(np.float32)
    scores[:, 5:, 20:] = -np.inf
    scores[:, 7, :] = -np.inf
    scores[:, 9, 3:9] = np.nan
    for k in (1, 4, 25, 40):
        found = native_index.chosen_entries(native.library(), mx.array(scores), k)
        expected = index_scores.chosen_entries(
            mx.array(np.where(np.isnan(scores), -np.inf, scores)), k
        )
        assert mx.array_equal(found, expected).item(), k
