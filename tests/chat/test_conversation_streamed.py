"""A conversation over experts from files outlives a disk that fails in the middle of an answer."""

import errno
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, TextDelta
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import CheckpointError
from tests.chat.talking import CHAT
from tests.model import streamed

SETTINGS = AnswerSettings(CHAT, sampling=Sampling(0.0), max_tokens=8)


class Disk:
    """Reads fail once so many tokens of a reply were stepped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self._read, self._step = os.preadv, Engine.step
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(Engine, "step", lambda *given: self.stepped(*given))

    def preadv(self, file: int, buffers: Sequence[memoryview], start: int) -> int:
        if self.left is not None and self.left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(file, buffers, start)

    def stepped(self, *given: Any) -> Any:
        if self.left is not None:
            self.left -= 1
        return self._step(*given)


def test_a_disk_that_fails_in_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, disk = streamed.written(tmp_path, "official"), Disk(monkeypatch)
    with ThreadPoolExecutor(1) as worker:
        engine = worker.submit(lambda: Engine(streamed.load(folder, 2))).result()
        conversation = Conversation(engine, Tokenizer(folder), SETTINGS, submit=worker.submit)
        list(conversation.send("What is this?"))
        before, shown = conversation.turns, []
        disk.left = 4
        with pytest.raises(
            CheckpointError, match=r"^model-.* could not be read \(Input/output err"
        ):
            for event in conversation.send("And that?"):
                shown.append(event)
        assert any(isinstance(event, TextDelta) for event in shown), "it failed inside of an answer"
        assert conversation.turns == before
        disk.left = None
        *_, done = conversation.send("And that?")
        assert isinstance(done, Done)
        assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2
