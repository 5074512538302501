"""Sessions of a model whose prompts pass a layer at a time: the same timelines, and stops."""

import threading

import mlx.core as mx
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.running import Running
from dsv4_mlx.engine.session import Session
from dsv4_mlx.loading import load_model
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint
from tests.engine.small_models import SMALL, arrays, prompt_of, same

PROMPT = prompt_of(150, SMALL.vocab_size)
LONGER = [*PROMPT, *prompt_of(40, 23)]
PLACES = (5, 32, 100)
LAYERS = SMALL.num_hidden_layers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    """One that is read by layers and one that is not, of the same weights."""
    folder = write_tiny_checkpoint(tmp_path_factory.mktemp("layers") / "m", SMALL)
    loaded = [
        load_model(open_checkpoint(folder), dtype=mx.float32, backend="cpu", drafts=False)
        for _ in range(2)
    ]
    loaded[0].reads_by_layers = True
    return loaded[0], loaded[1]


@pytest.fixture(params=[64, 10_000], ids=["in passes", "at once"])
def sessions(
    models: tuple[Model, Model], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Session, Session]:
    monkeypatch.setattr(Running, "pass_tokens", request.param)
    ours, theirs = (Engine(model, prefill_chunk=32).session() for model in models)
    return ours, theirs


def offsets(session: Session) -> list[int]:
    return [place.offset for place in session.places]


def reply(session: Session, seed: int = 3) -> list[tuple[int, float]]:
    drawn = session.stream(6, temperature=0.9, seed=seed, stop_ids=())
    return [(token.id, token.logprob) for token in drawn]


def test_the_timeline_its_places_and_replies_are_those_of_chunks(
    sessions: tuple[Session, Session],
) -> None:
    ours, theirs = sessions
    replies = []
    for session in sessions:
        read = [session.sync(PROMPT, places=PLACES)]
        said = [reply(session)]
        kept = session.snapshot()
        said.append(reply(session, 4))
        session.restore(kept)
        fork = session.fork()
        said += [reply(fork, 4), reply(session, 5)]
        session.rewind(100)
        read.append(session.sync(LONGER, places=PLACES))
        said.append(reply(session))
        replies.append((read, said, offsets(session), len(session)))
    assert replies[0] == replies[1]
    assert same(arrays(ours), arrays(theirs))


def test_progress_names_tokens_and_layers(sessions: tuple[Session, Session]) -> None:
    told: list[tuple[str, int, int]] = []
    sessions[0].sync(
        PROMPT,
        lambda done, total: told.append(("tokens", done, total)),
        on_layer=lambda done, total: told.append(("layers", done, total)),
    )
    layers = [("layers", layer, LAYERS) for layer in range(LAYERS + 1)]
    ends = range(64, 150, 64) if sessions[0]._running.pass_tokens == 64 else ()
    expected = [("tokens", 0, 150)]
    for end in (*ends, 150):
        expected += [*layers, ("tokens", end, 150)]
    assert told == expected


def test_a_reading_by_steps_names_layers_and_gives_the_same(
    sessions: tuple[Session, Session],
) -> None:
    told: list[int | tuple[int, int]] = []
    ours, theirs = sessions
    steps = ours.reading(PROMPT, PLACES, on_layer=lambda *layers: told.append(layers))
    for held in steps:
        told.append(held)
    theirs.sync(PROMPT, places=PLACES)
    ends = range(64, 150, 64) if ours._running.pass_tokens == 64 else ()
    layers = [(layer, LAYERS) for layer in range(LAYERS + 1)]
    assert told == [0, *(one for end in (*ends, 150) for one in (*layers, end))]
    assert offsets(ours) == offsets(theirs) and reply(ours) == reply(theirs)
    assert same(arrays(ours), arrays(theirs))


@pytest.mark.parametrize("stop", range(LAYERS + 1))
@pytest.mark.parametrize("stopped_pass", [0, 1])
def test_a_stop_before_a_layer_leaves_what_the_passes_before_it_read(
    models: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch, stop: int, stopped_pass: int
) -> None:
    monkeypatch.setattr(Running, "pass_tokens", 64)
    session, whole = (Engine(model, prefill_chunk=32).session() for model in models)
    session.sync(PROMPT[:10])
    flag, passes = threading.Event(), iter(range(100))

    def on_layer(done: int, total: int) -> None:
        if done == stop and next(passes) == stopped_pass:
            flag.set()

    read = session.sync(PROMPT, cancel=flag, on_layer=on_layer)
    done_passes = stopped_pass + (stop == LAYERS)  # after the last layer nothing is left to stop
    assert read.cancelled
    assert (read.reused, read.read) == (10, 64 * done_passes)
    assert session.tokens == PROMPT[: 10 + 64 * done_passes]
    again = session.sync(PROMPT)
    assert (again.reused, again.cancelled) == (10 + 64 * done_passes, False)
    whole.sync(PROMPT[:10])
    whole.sync(PROMPT[: 10 + 64 * done_passes])
    whole.sync(PROMPT)
    assert reply(session) == reply(whole)
    assert same(arrays(session), arrays(whole))


def test_a_layer_that_fails_leaves_the_timeline_before_the_pass(
    models: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Engine(models[0], prefill_chunk=32).session()
    session.sync(PROMPT[:10])

    def fails(done: int, total: int) -> None:
        if done == 1:
            raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        session.sync(PROMPT, on_layer=fails)
    assert session.sync(PROMPT).reused == 10
