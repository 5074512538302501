"""Whole models on the Metal texts, executed on this CPU, against the references.

Plain numerics have no rounding that float32 noise could turn, so logits are compared directly. With
the official ones a value next to a rounding border may fall on its other side, and what follows is
another number of the same size: every layer is held to the oracle's bound given the same streams,
and nano to its answers.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import fork
from dsv4_mlx.chat import encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels import sources
from metal_kernels.diagnosis import users
from metal_kernels.registry import NAMES, PRODUCTS, KernelPlan, bind
from tests.kernels.host import host_plan, launched
from tests.model import running

pytestmark = pytest.mark.needs("metalhost")

CLOSE = 1e-4
LAYER_BOUND = 2.0**-7


def on(plan: KernelPlan, folder: Path, numerics: Numerics, kv: str | None = None) -> Model:
    """The model of `folder` with a plan's kernels."""
    return load_model(
        open_checkpoint(folder),
        dtype=mx.bfloat16,  # as on a GPU
        numerics=numerics,
        backend="cpu",
        kv=kv,
        kernels=plan,
    )


@pytest.fixture
def fast() -> Iterator[KernelPlan]:
    with host_plan("fast") as plan:
        yield plan


@pytest.fixture
def checked() -> Iterator[KernelPlan]:
    with host_plan("checked", order=7) as plan:
        yield plan


def folder_of(name: str, tmp_path: Path) -> Path:
    return running.checkpoint_folder(name, tmp_path)


def tokens(model: Model, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, model.config.vocab_size, count)


def assert_same_logits(plan: KernelPlan, folder: Path, sizes: list[int]) -> None:
    reference = running.load(folder)
    ours, ids = on(plan, folder, Numerics.PLAIN), tokens(reference, sum(sizes))
    assert set(ours.kernel_plan().values()) == {plan.backend, "mlx", "resident"}
    expected = running.feed(reference, reference.make_cache(), running.pieces(ids, sizes))
    found = running.feed(ours, ours.make_cache(), running.pieces(ids, sizes))
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["tiny", pytest.param("nano", marks=pytest.mark.slow)])
def test_prefill_and_decode(fast: KernelPlan, tmp_path: Path, name: str) -> None:
    assert_same_logits(fast, folder_of(name, tmp_path), [9, 1, 1, 1])


@pytest.mark.parametrize("before", [255, pytest.param(259, marks=pytest.mark.slow)])
def test_a_token_of_whole_buffers_and_moved_positions(
    fast: KernelPlan, tmp_path: Path, before: int
) -> None:
    """The arguments that a replayed graph gives the texts: a position as an array and buffers with
    room for more. The token closes the windows of 4 and 128 tokens, or of 4 alone; the next none.

    Logits and everything that is kept have the bits of a token that is built anew.
    """
    folder = folder_of("tiny", tmp_path)
    reference, ours = running.load(folder), on(fast, folder, Numerics.PLAIN)
    cache = reference.make_cache()
    ids = tokens(reference, before + 2)
    reference.last_logits(mx.array(ids[None, :before]), cache)
    own, other, step = fork(cache), fork(cache), CompiledStep(ours)
    mx.disable_compile()
    try:
        for token in ids[before:]:
            given = mx.array([[int(token)]])
            expected = ours.last_logits(given, own)
            with launched() as texts:
                found = step.last_logits(given, other)
            near = np.array(reference.last_logits(given, cache))
            np.testing.assert_array_equal(np.array(found), np.array(expected))
            np.testing.assert_allclose(np.array(found), near, rtol=0, atol=CLOSE)
            for one, layer in zip(other, own, strict=True):
                for kept, same in zip(one.rows, layer.rows, strict=True):
                    compare(kept.arrays(), same.arrays())
    finally:
        mx.enable_compile()
    assert step.traces == 2
    assert {"index_scores", "index_select", "sparse_attention_matrix"} <= {t.text for t in texts}


def compare(found: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    """Rings and rows of a layer, as far as they are seen, by bits."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.array(found[name]), np.array(array))


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[pytest.mark.slow] * (one != "sparse_attention")) for one in NAMES],
)
def test_each_kernel_may_be_left_out(fast: KernelPlan, tmp_path: Path, name: str) -> None:
    """Its reference runs between the texts of all others: the same logits but for float32 noise."""
    folder, sizes = folder_of("tiny", tmp_path), [9, 1]
    reference = running.load(folder)
    ours = on(bind("metal", [name]), folder, Numerics.PLAIN)
    assert ours.left_out == (name,)
    expected = "mlx" if name in PRODUCTS else "reference"
    assert ours.kernel_plan()[name] == expected
    assert list(ours.kernel_plan().values()).count("reference") == (name not in PRODUCTS)
    pieces = running.pieces(tokens(reference, sum(sizes)), sizes)
    expected = running.feed(reference, reference.make_cache(), pieces)
    with launched() as texts:
        found = running.feed(ours, ours.make_cache(), pieces)
    assert {one.text for one in texts} and not only_its_own(name) & {one.text for one in texts}
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def only_its_own(name: str) -> set[str]:
    """Texts that no other kernel launches."""
    files = {path.stem for path in sources.ROOT.glob(f"{name}/*.metal")}
    return {text for text in files if users(text, "metal") == (name,)}


CALLS = ([5, 1, 60, 3, 64, 1], [1] * 40, [130, 1, 1], [127, 1, 1, 7])


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        pytest.param(name, sizes, id=f"{name}-{sizes}", marks=mark)
        for name in ("tiny", "tiny512", "nano")
        for n, sizes in enumerate(CALLS)
        for mark in [pytest.mark.slow if name == "tiny" or n == 0 else pytest.mark.soak]
    ],
)
def test_any_calls(fast: KernelPlan, tmp_path: Path, name: str, sizes: list[int]) -> None:
    assert_same_logits(fast, folder_of(name, tmp_path), sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "nano"])
def test_no_race_no_stray_access_in_a_whole_model(
    checked: KernelPlan, tmp_path: Path, name: str
) -> None:
    assert_same_logits(checked, folder_of(name, tmp_path), [30, 1, 1, 3])


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["compact", "bf16"])
def test_official_layers_given_the_same_streams(fast: KernelPlan, tmp_path: Path, kv: str) -> None:
    """One chunk, then single tokens, through layers of every kind; selections are left alone."""
    folder = folder_of("tiny512", tmp_path)
    reference = running.load(folder, Numerics.OFFICIAL)
    ours, ids = on(fast, folder, Numerics.OFFICIAL, kv), tokens(reference, 43)
    caches = reference.make_cache(), ours.make_cache()
    for part in running.pieces(ids, [40, 1, 1, 1]):
        streams = mx.repeat(reference.model.embed_tokens(mx.array(part)[None])[:, :, None], 4, 2)
        for number, layer in enumerate(reference.layers):
            text, own = mx.array(part)[None], (caches[0][number], caches[1][number])
            expected, found = (
                layer(streams, text, own[0]),
                ours.layers[number](streams, text, own[1]),
            )
            difference = mx.linalg.norm((found - expected).reshape(len(part), -1), axis=1)
            error = difference / mx.linalg.norm(expected.reshape(len(part), -1), axis=1)
            assert error.max().item() <= LAYER_BOUND, f"layer {number}, {len(part)} tokens"
            streams = expected


@pytest.mark.slow
def test_nano_answers_in_the_same_words(fast: KernelPlan) -> None:
    tokenizer = Tokenizer(running.NANO)
    question = "Which command turns the Hugging Face files into MLX ones?"
    message = {"role": "user", "content": question}
    prompt = tokenizer.encode(encode_messages([message], thinking_mode="chat"))
    answers = []
    for model in (
        running.load(running.NANO, Numerics.OFFICIAL),
        on(fast, running.NANO, Numerics.OFFICIAL),
    ):
        cache, answer = model.make_cache(), []
        logits = model.last_logits(mx.array([prompt]), cache)
        for _ in range(12):
            answer.append(int(logits.argmax()))
            logits = model.last_logits(mx.array([answer[-1:]]), cache)
        answers.append(tokenizer.decode(answer))
    assert answers[0] == answers[1]
    assert "convert" in answers[0]
