"""A model whose experts are read from files has the bits of one that holds all of them."""

import os
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.streamed_experts import StreamedExperts
from dsv4_mlx.model.v4 import Model
from tests.model import streamed
from tests.model.streamed import RECIPES, SMALL
from tests.weights.reads import reads_of

TOKENS = np.random.default_rng(3).integers(2, SMALL.vocab_size, 48).tolist()
k, E = SMALL.num_experts_per_tok, SMALL.n_routed_experts


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streamed")


HALF_IN_SOAK = pytest.mark.parametrize(
    ("recipe", "numerics"),
    [
        pytest.param(recipe, numerics, marks=pytest.mark.soak if (n + m) % 2 else pytest.mark.slow)
        for n, recipe in enumerate(RECIPES)
        for m, numerics in enumerate(Numerics)
    ],
)


def facts(model: Model) -> dict[str, int]:
    assert model.streamed is not None
    return model.streamed.facts.facts()


def assert_bit_equal(folder: Path, numerics: Numerics, all_slots: Sequence[int]) -> None:
    """Of prompts of 1, 7 and 40 tokens and the three tokens after each."""
    whole = streamed.load(folder, None, numerics)
    expected = {n: streamed.logits(whole, TOKENS[: n + 3], n) for n in (1, 7, 40)}
    for slots in all_slots:
        model = streamed.load(folder, slots, numerics)
        assert model.kernel_plan()["experts"] == "streamed" and facts(model)["slots"] == slots
        for prompt, logits in expected.items():
            found = streamed.logits(model, TOKENS[: prompt + 3], prompt)
            np.testing.assert_array_equal(found, logits, err_msg=f"{slots} slots, {prompt} tokens")


@pytest.mark.parametrize(
    ("recipe", "numerics", "slots"),
    [
        ("official", Numerics.PLAIN, k),
        pytest.param("native", Numerics.OFFICIAL, k, marks=pytest.mark.slow),
        ("q2", Numerics.OFFICIAL, k + 1),
        pytest.param("mixed", Numerics.PLAIN, E - 1, marks=pytest.mark.slow),
    ],
)
def test_logits_are_bit_equal(parent: Path, recipe: str, numerics: Numerics, slots: int) -> None:
    assert_bit_equal(streamed.written(parent, recipe), numerics, [slots])


@HALF_IN_SOAK
def test_logits_of_every_number_of_slots(parent: Path, recipe: str, numerics: Numerics) -> None:
    assert_bit_equal(streamed.written(parent, recipe), numerics, range(k, E))


@HALF_IN_SOAK
def test_a_long_prompt_and_fifty_tokens(parent: Path, recipe: str, numerics: Numerics) -> None:
    folder = streamed.written(parent, recipe)
    tokens = np.random.default_rng(7).integers(2, SMALL.vocab_size, 2_050).tolist()
    expected = streamed.logits(streamed.load(folder, None, numerics), tokens, 2_000)
    with streamed.late_disk(1):
        found = streamed.logits(streamed.load(folder, k, numerics), tokens, 2_000)
    np.testing.assert_array_equal(found, expected)


def test_all_experts_are_resident(parent: Path) -> None:
    folder = streamed.written(parent, "official")
    model = streamed.load(folder, E)
    assert model.streamed is None and not model.weights_elsewhere
    assert model.kernel_plan()["experts"] == "resident" and model.mtp


@pytest.mark.parametrize(("recipe", "seed"), [("native", 0), ("q2", 1)])
def test_late_reads_into_poisoned_slots_change_nothing(
    parent: Path, recipe: str, seed: int
) -> None:
    """Every read happens as late as it may, in a random order; a slot that is used too early, or
    overwritten too early, has NaN."""
    folder = streamed.written(parent, recipe)
    expected = streamed.logits(streamed.load(folder, None), TOKENS[:20], 12)
    with streamed.late_disk(seed) as disk:
        for slots in (k, k + 2):
            model = streamed.load(folder, slots)
            np.testing.assert_array_equal(streamed.logits(model, TOKENS[:20], 12), expected)
    assert disk.reads > 100


def test_the_poison_shows(parent: Path) -> None:
    """What is not waited for gives NaN: the test before this one can fail."""
    model = streamed.load(streamed.written(parent, "native"), k)
    with streamed.late_disk(0), pytest.MonkeyPatch.context() as broken:
        broken.setattr("dsv4_mlx.weights.expert_slots.SlotPool.wait", lambda *_: None)
        assert not np.isfinite(streamed.logits(model, TOKENS[:9], 8)).any()


def test_reads_of_one_byte_change_nothing(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = streamed.written(parent, "q2"), os.preadv
    expected = streamed.logits(streamed.load(folder, None), TOKENS[:3], 2)
    model = streamed.load(folder, k)

    def reluctant(file: int, buffers: Sequence[memoryview], start: int) -> int:
        return whole(file, [memoryview(buffers[0])[:1]], start)

    monkeypatch.setattr(os, "preadv", reluctant)
    reads = reads_of(monkeypatch, *folder.glob("*.safetensors"))
    np.testing.assert_array_equal(streamed.logits(model, TOKENS[:3], 2), expected)
    assert len(reads) == facts(model)["bytes_read"]


@pytest.mark.parametrize("recipe", ["official", "mixed"])
def test_bytes_read_are_those_of_the_misses(
    parent: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = streamed.written(parent, recipe)
    model = streamed.load(folder, 3)
    reads = reads_of(monkeypatch, *folder.glob("*.safetensors"))
    streamed.logits(model, TOKENS[:20], 12)
    assert model.streamed is not None
    found = facts(model)
    assert sum(count for _, count, _ in reads) == found["bytes_read"]
    layers = [layer._slots.layer for layer in model.streamed.layers.values()]
    if len({layer.file_bytes for layer in layers}) == 1:
        assert found["bytes_read"] == found["misses"] * layers[0].file_bytes


def test_a_token_waits_once_for_each_router_and_for_none_that_goes_by_tokens(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = streamed.load(streamed.written(parent, "native"), 4)
    asked = []
    ids = StreamedExperts._ids

    def seen(self: StreamedExperts, experts: mx.array, shared: mx.array) -> np.ndarray:
        asked.append((self._number, self._chosen is not None))
        found = ids(self, experts, shared)
        np.testing.assert_array_equal(found, np.array(experts))
        return found

    monkeypatch.setattr(StreamedExperts, "_ids", seen)
    streamed.logits(model, TOKENS[:8], 6)
    assert asked == [(0, True), (1, False), (2, False)] * 3


def test_experts_that_go_by_tokens_are_asked_for_ahead(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 2 * k)
    assert model.streamed is not None
    counts = model.streamed.facts.counts  # type: ignore[attr-defined]
    cache = model.make_cache()
    for number, token in enumerate(TOKENS[:12]):
        model.ask_ahead(TOKENS, number, number + 1)
        before = counts.ahead
        model.last_logits(mx.array([[token]]), cache)
        assert counts.ahead == before, "the call found what was asked for"
    assert 0 < counts.ahead == counts.ahead_used
    assert counts.hits + counts.misses == 12 * k * len(model.layers)


def test_logits_after_every_token_are_those_of_the_whole_model(parent: Path) -> None:
    folder = streamed.written(parent, "native")
    tokens = mx.array(TOKENS[:30])[None]
    expected = np.array(streamed.load(folder, None)(tokens))
    np.testing.assert_array_equal(np.array(streamed.load(folder, k)(tokens)), expected)


def test_hits_first_is_no_other_result(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = streamed.written(parent, "native")
    found, split = [], []
    multiplied = StreamedExperts._hits_first

    def counted(self: StreamedExperts, *given: object) -> tuple[mx.array, mx.array]:
        split.append(self._number)
        return multiplied(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(StreamedExperts, "_hits_first", counted)
    with streamed.late_disk(1):
        for hits_first in (True, False):
            monkeypatch.setattr(StreamedExperts, "hits_first", hits_first)
            found.append(streamed.logits(streamed.load(folder, 4), TOKENS[:14], 8))
            assert bool(split) is hits_first
            split.clear()
    np.testing.assert_array_equal(*found)


def test_the_trace_has_every_choice(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 3)
    assert model.streamed is not None
    seen: list[tuple[int, np.ndarray]] = []
    model.streamed.facts.trace = lambda *call: seen.append(call)  # type: ignore[attr-defined]
    streamed.logits(model, TOKENS[:12], 10)
    assert [(layer, ids.shape) for layer, ids in seen[:6]] == [
        (0, (10, k)),
        (1, (10, k)),
        (2, (1, k)),  # the last layer's experts work for the last token alone
        (0, (1, k)),
        (1, (1, k)),
        (2, (1, k)),
    ]


def test_tools_find_no_experts_among_parameters(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 3)
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert names and not [name for name in names if ".experts." in name]
    assert not [name for name, _ in model.named_modules() if ".experts." in name]
