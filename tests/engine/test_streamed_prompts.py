"""Prompts over experts in files: read once, a layer at a time, with the timelines of a model that
has all of them in memory."""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from benchmarks.expert_cache import calls_by_layer, replayed
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.expert_use import ExpertUse
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.weights.expert_slots import SlotArrays
from dsv4_mlx.weights.expert_trace import read_trace, trace_experts
from tests.engine.small_models import arrays, prompt_of, same
from tests.model import streamed
from tests.model.streamed import SMALL

E, K, LAYERS = SMALL.n_routed_experts, SMALL.num_experts_per_tok, SMALL.num_hidden_layers
PROMPT = prompt_of(90, SMALL.vocab_size)
SHORT = PROMPT[: 2 * E // K - 1]
"""Tokens whose own experts are read, and not all of a layer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.written(tmp_path_factory.mktemp("prompts"), "native")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Model:
    return streamed.load(folder, None, drafts=False)


def engine(model: Model) -> Engine:
    return Engine(model, prefill_chunk=32)


def used(of: Engine) -> ExpertUse:
    found = of.expert_use
    assert found is not None
    return found


def reply(session: Session, count: int = 4) -> list[tuple[int, float]]:
    drawn = session.stream(count, temperature=0.9, seed=3, stop_ids=())
    return [(token.id, token.logprob) for token in drawn]


def script(of: Engine) -> tuple[list[Any], list[np.ndarray]]:
    """What a session gives on its way, and all it holds at the end."""
    session = of.session()
    found: list[Any] = [session.sync(SHORT), reply(session)]
    found += [session.sync(PROMPT, places=(20, 64)), reply(session)]
    kept = session.snapshot()
    fork = session.fork()
    found += [reply(fork), reply(session, 2)]
    session.restore(kept)
    found += [session.rewind(64), session.sync([*PROMPT[:70], *SHORT]), reply(session)]
    found += [session.sync([*session.tokens, *SHORT]), reply(session)]  # goes on from a reply
    return found, arrays(session)


@pytest.mark.parametrize("slots", [K, K + 1, E - 1])
def test_a_session_says_and_holds_what_it_does_in_memory(
    folder: Path, whole: Model, slots: int
) -> None:
    said, held = script(engine(streamed.load(folder, slots)))
    expected, theirs = script(engine(whole))
    assert said == expected
    assert same(held, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["native", "mixed"])
@pytest.mark.parametrize("numerics", list(Numerics), ids=lambda one: one.value)
def test_a_long_prompt_leaves_the_same_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, recipe: str, numerics: Numerics
) -> None:
    """2,000 tokens: logits, the rows of every cache, the reply and what is saved after it."""
    parent, tokens = tmp_path_factory.getbasetemp() / "long", prompt_of(2_000, SMALL.vocab_size)
    written, found = streamed.written(parent, recipe), []
    for slots in (None, K + 1):
        of = Engine(streamed.load(written, slots, numerics, drafts=False), prefill_chunk=512)
        session, path = of.session(), tmp_path / str(slots)
        session.sync(tokens, places=(700,))
        held = arrays(session)
        said = reply(session, 20)
        session.save(path)
        found.append((held, said, path.read_bytes()))
        assert (of.expert_use is None) is (slots is None)
    (held, *expected), (ours, *others) = found
    assert same(held, ours) and others == expected


def test_a_prompt_reads_every_expert_once_and_a_reply_what_it_misses(folder: Path) -> None:
    of = engine(streamed.load(folder, K + 1))
    session = of.session()
    session.sync(PROMPT)
    read = used(of)
    # Three chunks pass every layer but the last, which has experts for one token.
    assert E * (LAYERS - 1) <= read.misses <= E * (LAYERS - 1) + K
    ids = [token.id for token in session.stream(6, stop_ids=())]
    wrote = used(of).since(read)
    # The last token is not read, so nothing is asked for it.
    assert wrote.hits + wrote.misses == K * LAYERS * (len(ids) - 1)
    assert wrote.bytes_read * read.misses == read.bytes_read * wrote.misses


def test_the_second_prompt_reads_what_no_slot_has(folder: Path) -> None:
    of = engine(streamed.load(folder, E - 1))
    session = of.session()
    session.sync(PROMPT)
    before = used(of)
    session.sync([*PROMPT, *PROMPT])
    again = used(of).since(before)
    assert again.misses <= LAYERS - 1 + K


def test_a_short_prompt_reads_its_own_experts(folder: Path) -> None:
    of = engine(streamed.load(folder, E - 1))
    of.session().sync(SHORT[:2])
    assert used(of).misses <= 2 * K * LAYERS < E * (LAYERS - 1)


def test_whole_layers_are_given_back(folder: Path) -> None:
    of = engine(streamed.load(folder, K))
    session = of.session()
    during: list[int] = []
    before = slot_arrays()
    session.sync(PROMPT, on_layer=lambda passed, layers: during.append(slot_arrays() - before))
    assert max(during) == min(2, LAYERS - 1) and slot_arrays() == before


def slot_arrays() -> int:
    """Arrays of slots, or of whole layers, that are in memory."""
    gc.collect()
    return sum(isinstance(one, SlotArrays) for one in gc.get_objects())


@pytest.mark.parametrize("stop", range(LAYERS))
def test_a_stop_before_a_layer_leaves_a_usable_session(
    folder: Path, whole: Model, stop: int
) -> None:
    of, flag = engine(streamed.load(folder, K + 1)), threading.Event()
    session, theirs = of.session(), engine(whole).session()

    def on_layer(passed: int, layers: int) -> None:
        assert layers == LAYERS
        if passed == stop:
            flag.set()

    assert session.sync(PROMPT, cancel=flag, on_layer=on_layer).cancelled
    assert session.tokens == []
    assert not session.sync(PROMPT).cancelled
    theirs.sync(PROMPT)
    assert reply(session) == reply(theirs)
    assert same(arrays(session), arrays(theirs))


def test_an_expert_that_cannot_be_read_is_a_sentence_and_the_session_goes_on(
    folder: Path, whole: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsv4_mlx.weights.expert_files import ExpertPart

    of = engine(streamed.load(folder, K))
    session, theirs = of.session(), engine(whole).session()
    session.sync(SHORT)
    ranges = ExpertPart.ranges
    fails = iter([False] * (2 * E) + [True])

    def failing(part: ExpertPart, expert: int) -> Iterator[tuple[TensorEntry, int, int]]:
        if next(fails, False):
            raise CheckpointError("model-1.safetensors could not be read; check its disk.")
        return ranges(part, expert)

    monkeypatch.setattr(ExpertPart, "ranges", failing)
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors"):
        session.sync(PROMPT)
    assert session.tokens == SHORT[:-1] or session.tokens == SHORT
    session.sync(PROMPT)
    theirs.sync(SHORT)
    theirs.sync(PROMPT)
    assert reply(session) == reply(theirs)


def test_a_trace_has_every_choice_and_its_replay_the_hits_of_the_slots(
    folder: Path, tmp_path: Path
) -> None:
    model = streamed.load(folder, K + 2)
    path = tmp_path / "trace.csv"
    trace_experts(model, path)
    of = engine(model)
    session = of.session()
    session.sync(PROMPT)
    before = used(of)
    ids = [token.id for token in session.stream(12, stop_ids=())]
    found = used(of).since(before)
    choices = list(read_trace(path))
    layers = calls_by_layer(choices)
    assert sorted(layers) == list(range(LAYERS))
    for layer, calls in layers.items():
        prompts = [len(call) for call in calls if len(call) > 1]
        assert prompts == ([len(PROMPT)] if layer < LAYERS - 1 else [])
        assert len(calls) == len(ids) - 1 + 1  # the last layer's prompt is one token
    hash_table = np.array(model.layers[0].mlp.gate.tid2eid)
    assert [choice.experts for choice in layers[0][0]] == [tuple(hash_table[t]) for t in PROMPT]
    replay = replayed({layer: layers[layer] for layer in range(LAYERS - 1)}, K + 2)
    last = replayed({LAYERS - 1: layers[LAYERS - 1]}, K + 2)
    # Of the last layer the prompt's own token counts in the replay.
    assert replay.hits + last.hits == found.hits
    assert replay.misses + last.misses == found.misses + K


def test_nothing_is_asked_for_a_token_that_ends_a_reply(folder: Path) -> None:
    of = engine(streamed.load(folder, K))
    session = of.session()
    session.sync(PROMPT)
    here, before = session.snapshot(), used(of)
    (first, *_) = session.stream(3, stop_ids=())
    found = used(of).since(before)
    assert found.misses + found.hits == 2 * K * LAYERS
    session.restore(here)
    between = used(of)
    assert [token.id for token in session.stream(3, stop_ids=(first.id,))] == [first.id]
    assert used(of) == between


def test_a_model_in_memory_has_no_trace(whole: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--expert-memory SIZE"):
        trace_experts(whole, tmp_path / "trace.csv")


def test_batches_and_gradients_are_refused(folder: Path) -> None:
    model = streamed.load(folder, K)
    with pytest.raises(UsageError, match="one timeline"):
        model(mx.array([PROMPT[:4], PROMPT[:4]]))
    gradient = nn.value_and_grad(model, lambda one: one(mx.array([PROMPT[:4]])).sum())
    with pytest.raises(UsageError, match="load it without expert_memory"):
        gradient(model)
