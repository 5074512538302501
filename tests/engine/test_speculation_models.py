"""What real models draft, and what their drafters know of a timeline, wherever that goes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_writing import plan_array
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.dspark_drafts import DSparkDrafts
from dsv4_mlx.model.mtp_drafts import MtpDrafts
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import edit_checkpoint, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine.small_models import WITH_STAGES, load_small_models, prompt_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return load_small_models(tmp_path_factory.mktemp("models"))


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
        features = one.last_logits_and_features(mx.array([prompt_of(40, 512)]))[1]
        drafter.absorb(prompt_of(40, 512), features)
        drafted.append(drafter.draft(5, 4).tolist())
        word = drafter.confidence()
        assert word is None if one is model else word.shape == (4,)
    assert drafted[0] == drafted[1] and len(drafted[0]) == 4


def test_confidences_can_be_left_unasked(models: dict[str, Model]) -> None:
    for confident in (True, False):
        drafter = DSparkDrafts(models["dspark"], confident=confident).new_drafter()
        assert drafter.confidence() is None  # before the first draft
        drafter.draft(5, 3)
        assert (drafter.confidence() is not None) is confident


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mtp.0.e_proj.weight", "belongs to an MTP block"),
        ("mtp.1.norm.weight", "is no tensor of the model"),
    ],
)
def test_a_draft_tensor_that_no_stage_has_is_an_error(
    name: str, words: str, tmp_path: Path
) -> None:
    write_tiny_checkpoint(tmp_path, WITH_STAGES, tokenizer=False)
    extra = plan_array(name, "BF16", np.zeros((64,), np.uint16))
    edit_checkpoint(tmp_path, {name: extra})
    with pytest.raises(CheckpointError, match=words):
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


def test_a_drafter_that_is_chosen_reads_the_next_prompt(drafting_model: Model) -> None:
    prompt = prompt_of(12, drafting_model.config.vocab_size)
    engine = Engine(drafting_model)
    session = engine.session()
    engine.drafting.draft_with(drafting_model.drafts(), 3, True)
    session.sync(prompt)
    assert session.drafts_know == 12


def test_tokens_that_were_read_without_drafts_leave_a_drafter_cold(drafting_model: Model) -> None:
    """One conversation of an engine may choose drafts while another is being answered."""
    prompt = prompt_of(12, drafting_model.config.vocab_size)
    plain, engine = Engine(drafting_model).session(), Engine(drafting_model)
    engine.drafting.draft_with(drafting_model.drafts(), 3, True)
    session = engine.session()
    for one in (plain, session):
        one.sync(prompt)
    reply, found = plain.stream(9, stop_ids=()), session.stream(9, stop_ids=())
    for number in range(9):
        if number == 3:
            engine.drafting.draft_with(None, None, False)
            assert session.drafts_know == 15
        assert next(found) == next(reply)
    assert session.drafts_know == 0
