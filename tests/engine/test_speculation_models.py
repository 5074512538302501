"""Replies of real models with drafts are their replies without, bit for bit; the MTP block drafts.

The cases are a covering array: every pair of values of two of the columns occurs at least once.
"""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.engine.drafters import DraftModel, Lookup
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.dspark_drafts import DSparkDrafts
from dsv4_mlx.model.mtp_drafts import MtpDrafts
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DSpark
from dsv4_mlx.testing.checkpoints import TINY, edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine.drafting import KINDS, ScriptedDrafts
from tests.engine.sessions import SetAfter
from tests.model.running import NANO

SMALL = TINY.replace(
    vocab_size=128,
    hidden_size=64,
    num_hidden_layers=3,
    num_hash_layers=1,
    n_routed_experts=4,
    num_attention_heads=2,
    head_dim=64,
    qk_rope_head_dim=16,
    q_lora_rank=32,
    o_lora_rank=32,
    moe_intermediate_size=32,
    sliding_window=32,
    index_n_heads=4,
    index_head_dim=32,
    compress_ratios=(0, 4, 128, 0),
)
WITH_STAGES = SMALL.replace(
    dspark=DSpark(5, 127, (0, 1, 2), 8), compress_ratios=(0, 4, 128, 0, 0, 0)
)
EOS = 1
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "0.7": {"temperature": 0.7},
    "1.0": {"temperature": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "penalty": {"temperature": 0.7, "repetition_penalty": 1.2},
}
COLUMNS: dict[str, Sequence[Any]] = {
    "model": ("mtp", "dspark", "nano"),
    "drafter": (*KINDS, "own", "lookup"),
    "sampling": tuple(SAMPLINGS),
    "seed": tuple(range(10)),
    "max_tokens": tuple(range(1, 10)),
    "cancel": (None, 1, 2, 3, 4, 5, 6, 7, 8),
    "steered": (None, 0, 1, 3),  # the token that somebody else decides
    # Before windows close (4, 128) and across, and where the window's ring is full and is not.
    "prompt": (3, 30, 62, 125, 127, 130),
    "most": (1, 3, 5, 7),
}


def covering(
    columns: dict[str, Sequence[Any]], pairs: Sequence[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Cases such that every pair of values of two columns is in one of them; greedy, seeded.

    `pairs` are the columns that matter, all by default. Where nothing is gained by it, the first
    model is taken, which is the fastest.
    """
    rng, names = random.Random(0), list(columns)
    missing = {
        (one, a, other, b)
        for one, other in pairs or itertools.combinations(names, 2)
        for a, b in itertools.product(columns[one], columns[other])
    }
    cases = []
    while missing:
        one, a, other, b = rng.choice(sorted(missing, key=repr))
        case = {one: a, other: b}
        for name in (*rng.sample(names[1:], len(names) - 1), names[0]):
            if name not in case:
                gains = [(_gained(missing, case, name, v), rng.random()) for v in columns[name]]
                if name == names[0]:
                    gains = [(gain > 8, -place) for place, (gain, _) in enumerate(gains)]
                case[name] = columns[name][gains.index(max(gains))]
        missing = {pair for pair in missing if not _pair(case, pair)}
        cases.append({name: case[name] for name in names})
    return cases


def _pair(case: dict[str, Any], pair: tuple[str, Any, str, Any]) -> bool:
    one, a, other, b = pair
    return bool(case[one] == a and case[other] == b)


def _gained(missing: set[Any], case: dict[str, Any], name: str, value: Any) -> int:
    """Missing pairs that `value` makes with the values chosen so far."""
    order = list(COLUMNS)
    pairs = (
        (name, value, other, chosen)
        if order.index(name) < order.index(other)
        else (other, chosen, name, value)
        for other, chosen in case.items()
    )
    return sum(pair in missing for pair in pairs)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folders = {"nano": NANO}
    for name, config in (("mtp", SMALL), ("dspark", WITH_STAGES)):
        folders[name] = tmp_path_factory.mktemp(name)
        write_tiny_checkpoint(folders[name], config, tokenizer=False)
    return {
        name: load_model(open_checkpoint(path), dtype=mx.float32, backend="cpu", drafts=True)
        for name, path in folders.items()
    }


def prompt_of(length: int, vocab_size: int) -> list[int]:
    """Ids with repeats, so that `lookup` finds something."""
    return [(7 * i * i + 3 * i) % 25 % vocab_size + 2 for i in range(length)]


def synced(model: Model, length: int, **options: Any) -> Session:
    session = Engine(model, **options).session()
    session.sync(prompt_of(length, model.config.vocab_size))
    return session


def drafts_of(case: dict[str, Any], model: Model, text: list[int]) -> DraftModel:
    if case["drafter"] == "own":
        own = model.drafts()
        assert own is not None and own.name == ("mtp" if case["model"] == "nano" else case["model"])
        return own
    if case["drafter"] == "lookup":
        return Lookup()
    return ScriptedDrafts(KINDS[case["drafter"]](text, model.config.vocab_size, EOS))


def said(session: Session, case: dict[str, Any]) -> list[Token]:
    numbers = itertools.count()
    at = case["steered"]
    cancel = None if case["cancel"] is None else SetAfter(case["cancel"])
    return list(
        session.stream(
            case["max_tokens"],
            seed=case["seed"],
            stop_ids={EOS},
            cancel=cancel,
            steer=None if at is None else lambda: 9 if next(numbers) == at else None,
            **SAMPLINGS[case["sampling"]],
        )
    )


def arrays(session: Session) -> list[np.ndarray]:
    """Every array of a session's state, and the logits after its last token."""
    snapshot = session.snapshot()
    rows = (row for rows in snapshot.state.layers for row in rows)  # type: ignore[attr-defined]
    found = [array for row in rows for _, array in sorted(row.arrays().items())]
    return [np.array(array) for array in [*found, snapshot.logits]]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def test_replies_of_small_models_with_drafts_are_those_without(models: dict[str, Model]) -> None:
    """Every drafter and every way to draw with both kinds of draft weights."""
    columns = {**COLUMNS, "model": ("mtp", "dspark")}
    check(covering(columns, [("model", "drafter"), ("model", "sampling")]), models)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_replies_with_drafts_are_those_without(models: dict[str, Model], part: int) -> None:
    check(covering(COLUMNS)[part::4], models)


def check(cases: list[dict[str, Any]], models: dict[str, Model]) -> None:
    for case in cases:
        model = models[case["model"]]
        expected = synced(model, case["prompt"])
        beginning = expected.snapshot()
        reply = said(expected, case)
        state = arrays(expected)
        text = prompt_of(case["prompt"], model.config.vocab_size)
        if case["drafter"] in ("right", "wrong", "right then wrong"):  # scripts that know the rest
            expected.restore(beginning)
            whole = said(expected, {**case, "cancel": None, "max_tokens": 12})
            text += [token.id for token in whole]
        session = synced(
            model,
            case["prompt"],
            drafts=drafts_of(case, model, text),
            draft_most=case["most"],
            draft_demanded=True,
        )
        assert said(session, case) == reply, case
        assert same(arrays(session), state), case
        use = session.draft_use
        assert use is not None and use.passes + use.accepted == len(reply), case


def test_every_pair_of_values_is_covered() -> None:
    cases = covering(COLUMNS)
    for one, other in itertools.combinations(COLUMNS, 2):
        pairs = {(case[one], case[other]) for case in cases}
        assert len(pairs) == len(COLUMNS[one]) * len(COLUMNS[other])


def test_drafts_of_the_mtp_block_are_those_of_its_teacher_forced_rows(
    models: dict[str, Model],
) -> None:
    """One draft a pass on nano: right exactly where the block, given the whole text, is right."""
    model = models["nano"]
    session = synced(model, 130, drafts=MtpDrafts(model), draft_most=1, draft_demanded=True)
    prompt = session.tokens
    drafter = MtpDrafts(model).new_drafter()
    text = [*prompt, *(token.id for token in session.stream(8, stop_ids=()))]
    cache, block = model.make_cache(), model.mtp[0]
    streams = mx.concatenate(
        [model.streams(mx.array([text[: len(prompt)]]), cache)]
        + [model.streams(mx.array([[token]]), cache) for token in text[len(prompt) :]],
        axis=1,
    )
    drafter.absorb(text[: len(prompt)], streams[:, : len(prompt)])
    for place in range(len(prompt), len(text) - 1):
        (draft,) = drafter.draft(text[place], 1).tolist()
        ends = {"embed": model.model.embed_tokens, "head": model.lm_head}
        forced = block.predict(
            streams[:, :place], mx.array([text[1 : place + 1]]), block.make_cache(), **ends
        )[0, -1]
        gap = np.sort(np.array(forced))[-2:]
        if gap[1] - gap[0] > 0.05:  # sums of other lengths may decide nearer ones otherwise
            assert draft == int(mx.argmax(forced).item())
        drafter.absorb(text[place : place + 1], streams[:, place : place + 1])
    use = session.draft_use
    assert use is not None and use.accepted > 0


def test_an_mtp_drafter_is_what_it_read_however_it_was_told(models: dict[str, Model]) -> None:
    model = models["mtp"]
    tokens = prompt_of(75, model.config.vocab_size)
    streams = model.streams(mx.array([tokens]))
    whole, parts = MtpDrafts(model).new_drafter(), MtpDrafts(model).new_drafter()
    whole.absorb(tokens, streams)
    for start, stop in ((0, 40), (40, 41), (41, 43), (43, 75)):
        parts.absorb(tokens[start:stop], streams[:, start:stop])
        parts.draft(5, 3)  # leaves no trace
    window = [np.array(caches.evaluated([one._cache])[0], np.float32) for one in (whole, parts)]
    assert window[0].shape == window[1].shape
    assert whole.draft(5, 3).shape == (3,)


def test_a_drafter_that_was_told_nothing_drafts_nothing(models: dict[str, Model]) -> None:
    assert MtpDrafts(models["mtp"]).new_drafter().draft(5, 3).tolist() == []


def test_stages_without_a_confidence_head_draft_the_same(
    models: dict[str, Model], tmp_path: Path
) -> None:
    write_tiny_checkpoint(tmp_path, WITH_STAGES, tokenizer=False)
    edit_checkpoint(tmp_path, {"mtp.2.confidence_head.proj.weight": None})
    model = load_model(open_checkpoint(tmp_path), dtype=mx.float32, backend="cpu", drafts=True)
    drafted = []
    for one in (model, models["dspark"]):
        own = one.drafts()
        assert isinstance(own, DSparkDrafts)
        drafter = own.new_drafter()
        features = one.last_logits_and_features(mx.array([prompt_of(40, 128)]))[1]
        drafter.absorb(prompt_of(40, 128), features)
        drafted.append(drafter.draft(5, 4).tolist())
    assert drafted[0] == drafted[1] and len(drafted[0]) == 4


@pytest.mark.parametrize("name", ["mtp.0.e_proj.weight", "mtp.1.norm.weight"])
def test_a_draft_tensor_that_no_stage_has_is_an_error(name: str, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, WITH_STAGES, tokenizer=False)
    extra = plan_array(name, "BF16", np.zeros((64,), np.uint16))
    edit_checkpoint(tmp_path, {name: extra})
    with pytest.raises(CheckpointError, match="is no tensor of the model"):
        load_model(open_checkpoint(tmp_path), dtype=mx.float32, backend="cpu", drafts=True)


def test_stages_are_no_part_of_what_names_a_model(models: dict[str, Model], tmp_path: Path) -> None:
    """So that a timeline kept with drafts opens without them."""
    write_tiny_checkpoint(tmp_path, WITH_STAGES, tokenizer=False)
    without = load_model(open_checkpoint(tmp_path), dtype=mx.float32, backend="cpu")
    assert without.drafts() is None
    assert without.fingerprint == models["dspark"].fingerprint


@pytest.fixture(params=["mtp", "dspark"])
def drafting_model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


def known(session: Session) -> dict[str, Any]:
    """What its drafter knows, by name."""
    timeline = session._timeline
    with timeline.remembered():
        state = caches.drafts_of(timeline.cache)
    assert state is not None and state.offset == len(session)
    return {name: np.array(array).tolist() for name, array in state.arrays.items()}


def test_what_a_drafter_knows_is_restored_forked_and_kept(
    drafting_model: Model, tmp_path: Path
) -> None:
    prompt = prompt_of(12, drafting_model.config.vocab_size)
    engine = Engine(drafting_model, drafts=drafting_model.drafts(), draft_demanded=True)
    session, other = engine.session(), engine.session()
    session.sync(prompt, places=[5])
    now, moment = known(session), session.snapshot()
    assert session.drafts_know == 12
    said = [token.id for token in session.stream(3, stop_ids=())]
    for one in (session, session.fork()):
        one.restore(moment)
        assert known(one) == now and one.drafts_know == 12
    session.save(tmp_path / "kept.kv")
    other.load(tmp_path / "kept.kv")
    assert known(other) == now and other.drafts_know == 12
    assert [token.id for token in other.stream(3, stop_ids=())] == said
    for one in (session, other):
        assert one.rewind(5) == 5
        assert one.drafts_know == 5  # the place inside the chunk knows it too
    assert known(session) == known(other)


def test_a_file_without_what_a_drafter_knows_begins_cold(
    drafting_model: Model, tmp_path: Path
) -> None:
    prompt = prompt_of(12, drafting_model.config.vocab_size)
    plain = Engine(drafting_model).session()
    plain.sync(prompt)
    plain.save(tmp_path / "kept.kv")
    expected = [token.id for token in plain.stream(4, stop_ids=())]
    drafting = Engine(drafting_model, drafts=drafting_model.drafts(), draft_demanded=True).session()
    drafting.load(tmp_path / "kept.kv")
    assert drafting.drafts_know == 0
    assert [token.id for token in drafting.stream(4, stop_ids=())] == expected
    assert drafting.drafts_know == 4
