"""Sessions over experts from files: every moment is that of the resident model, and a disk that
fails costs nothing but the answer that needed it."""

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.model.v4 import Model
from tests.engine.small_models import arrays, prompt_of, same
from tests.model import streamed

PROMPT = prompt_of(44, streamed.SMALL.vocab_size)
Reply = list[tuple[int, float]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streamed.written(tmp_path_factory.mktemp("streamed"), "native")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Model:
    return streamed.load(folder, None, drafts=False)


def reply(session: Session, count: int, seed: int | None = None) -> Reply:
    drawn: dict[str, Any] = {} if seed is None else {"temperature": 0.9, "seed": seed}
    found = session.stream(count, stop_ids=(), **drawn)
    return [(token.id, token.logprob) for token in found]


def script(model: Model, folder: Path) -> tuple[list[Reply], list[np.ndarray]]:
    """Greedy and drawn replies, a snapshot, a fork, a rewind and a saved file."""
    session = Engine(model, prefill_chunk=16).session()
    session.sync(PROMPT)
    replies = [reply(session, 6)]
    here = session.snapshot()
    replies.append(reply(session, 5, seed=3))
    session.restore(here)
    replies.append(reply(session, 5, seed=3))
    other = session.fork()
    replies += [reply(session, 3), reply(other, 3, seed=4)]
    session.rewind(30)
    session.sync([*session.tokens, 7, 8, 9])
    replies.append(reply(session, 4))
    session.save(folder / "saved")
    loaded = Engine(model).session()
    loaded.load(folder / "saved")
    replies.append(reply(loaded, 3))
    return replies, [*arrays(session), *arrays(other)]


@pytest.mark.parametrize("slots", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_whole_script(folder: Path, whole: Model, tmp_path: Path, slots: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "streamed").mkdir()
    expected, moments = script(whole, tmp_path / "whole")
    found, ours = script(streamed.load(folder, slots), tmp_path / "streamed")
    assert found == expected
    assert same(ours, moments)
    one, other = (tmp_path / name / "saved" for name in ("whole", "streamed"))
    assert one.read_bytes() == other.read_bytes()


def test_a_saved_session_opens_either_way(folder: Path, whole: Model, tmp_path: Path) -> None:
    ours = streamed.load(folder, 3)
    for number, (writer, reader) in enumerate([(whole, ours), (ours, whole)]):
        session = Engine(writer).session()
        session.sync(PROMPT)
        session.save(tmp_path / str(number))
        other = Engine(reader).session()
        other.load(tmp_path / str(number))
        assert reply(other, 4) == reply(session, 4)


def test_no_token_is_stepped_by_a_compiled_graph(folder: Path) -> None:
    model = streamed.load(folder, 3)
    assert not Engine(model).compiled
    with pytest.raises(UsageError, match="weights are not all in memory"):
        Engine(model, compiled=True)


def assert_answers_as(whole: Model, session: Session) -> None:
    """The model of `session` answers as the resident one: a failure left nothing in its slots."""
    ours, theirs = (Engine(one).session() for one in (session._timeline.running.model, whole))
    for one in (ours, theirs):
        one.sync(PROMPT)
    assert reply(ours, 6) == reply(theirs, 6)


class FailingDisk:
    """Reads that fail, from the n-th on, as the system says `code`; by default none do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._read, self.code, self.left = os.preadv, 0, 0
        monkeypatch.setattr(os, "preadv", self.preadv)

    def preadv(self, file: int, buffers: Sequence[memoryview], start: int) -> int:
        self.left -= 1
        if self.code and self.left < 0:
            raise OSError(self.code, os.strerror(self.code))
        return self._read(file, buffers, start)


@pytest.mark.parametrize(("code", "healthy"), [(errno.EIO, 0), (errno.ESTALE, 7)])
def test_a_disk_that_fails_in_a_reply_leaves_the_session(
    folder: Path, whole: Model, monkeypatch: pytest.MonkeyPatch, code: int, healthy: int
) -> None:
    session = Engine(streamed.load(folder, 2)).session()
    session.sync(PROMPT)
    found = reply(session, 4)
    disk = FailingDisk(monkeypatch)
    disk.code, disk.left = code, healthy
    with pytest.raises(CheckpointError, match=r"^model-\d+.*safetensors could not be read") as said:
        for token in session.stream(8, stop_ids=()):
            found.append((token.id, token.logprob))
    assert str(said.value).endswith(f"({os.strerror(code)}); check its disk.")
    assert session.tokens == [*PROMPT, *(token for token, _ in found)]
    disk.code = 0
    assert len(reply(session, 3)) == 3
    assert_answers_as(whole, session)


def test_a_disk_that_fails_in_a_prompt_leaves_the_session(
    folder: Path, whole: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Engine(streamed.load(folder, 2), prefill_chunk=16).session()
    disk = FailingDisk(monkeypatch)
    disk.code, disk.left = errno.EIO, 40
    with pytest.raises(CheckpointError, match="could not be read"):
        session.sync(PROMPT)
    assert len(session) == 0 and disk.left < 0, "a prompt passes layer by layer, or not at all"
    disk.code = 0
    session.sync(PROMPT)
    assert session.tokens == PROMPT and len(reply(session, 3)) == 3
    assert_answers_as(whole, session)


def test_a_shard_that_is_written_to_in_a_reply_is_named(folder: Path, tmp_path: Path) -> None:
    """Here nothing can be read on: the weights may be of another model by now."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    session = Engine(streamed.load(tmp_path, 2)).session()
    session.sync(PROMPT)
    for path in tmp_path.glob("*.safetensors"):
        os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"safetensors was written to .*; load the model"):
        reply(session, 20)
    assert session.tokens[: len(PROMPT)] == PROMPT


def test_a_folder_that_is_replaced_in_a_reply_is_told_at_the_next_prompt(
    folder: Path, whole: Model, tmp_path: Path
) -> None:
    here = tmp_path / "model"
    shutil.copytree(folder, here)
    session = Engine(streamed.load(here, 2), prefill_chunk=16).session()
    session.sync(PROMPT)
    stream = session.stream(8, stop_ids=())
    found = [(token.id, token.logprob) for token in (next(stream), next(stream))]
    here.rename(tmp_path / "before")
    shutil.copytree(folder, here, copy_function=shutil.copyfile)
    found += [(token.id, token.logprob) for token in stream]  # of the files that are open
    theirs = Engine(whole, prefill_chunk=16).session()
    theirs.sync(PROMPT)
    assert found == reply(theirs, 8)
    said = session.tokens
    for longer in ([7], list(PROMPT)):
        with pytest.raises(CheckpointError, match=r"model/model-.* the folder was changed since"):
            session.sync([*said, *longer])
        assert session.tokens == said[: len(session)] and len(session) >= len(said) - 1
    shutil.rmtree(here)
    (tmp_path / "before").rename(here)
    session.sync([*said, 7])
    theirs.sync([*said, 7])
    assert reply(session, 3) == reply(theirs, 3)


def test_what_a_token_decides_is_asked_for_when_it_is_drawn(folder: Path) -> None:
    model = streamed.load(folder, 4)
    assert model.streamed is not None
    session, counts = Engine(model).session(), model.streamed.facts.counts  # type: ignore[attr-defined]
    session.sync(PROMPT)
    replies = session.stream(8, stop_ids=())
    held = model.streamed.facts.pools[0]  # type: ignore[attr-defined]
    table = model.layers[0].mlp.gate.tid2eid
    for token, _ in zip(replies, range(7), strict=False):  # the eighth is not read
        assert set(table[token.id].tolist()) <= set(held.held), "before the step that wants them"
    assert counts.ahead_used <= counts.ahead
