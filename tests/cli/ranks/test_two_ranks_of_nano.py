"""The embedded model on two ranks: the answers of one process, many conversations, no leak."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.opened_model import embedded_model
from cli.ranks import processes, starting
from cli.ranks.far_side import FarEngine
from cli.ranks.processes import RankProcess
from cli.ranks.rank_work import RankWork
from cli.ranks.starting import RankPair
from convert.app import main as convert
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.loading import load
from dsv4_mlx.peers.hostfile import PeerHost
from tests.cli.ranks.started import Ranks
from tests.cli.running import run
from tests.peers.meetings import free_ring
from tests.terminal.ranks import all_gone, with_ssh, worker_that

pytestmark = pytest.mark.slow

HERE = PeerHost("127.0.0.1", ("127.0.0.1",))
SETTINGS = AnswerSettings(Thinking("chat"), sampling=Sampling(0.0), max_tokens=24)
GROWTH_BYTES = 24 << 20


@contextmanager
def two_ranks(
    limit_s: float = 60.0, folders: tuple[Path, Path] | None = None
) -> Iterator[tuple[RankPair, FarEngine]]:
    """Ranks of the embedded model, or rank 0 and rank 1 of their own folders."""
    own, other = folders or (embedded_model(), embedded_model())
    work = RankWork(0, free_ring(), ("127.0.0.1",) * 2, "token", limit_s, "", backend="cpu")
    pair = RankPair((HERE, replace(HERE, model=str(other))), work)
    try:
        yield pair, pair.open(str(own), "2026-04")
    finally:
        processes = [one.process.pid for one in pair._processes]
        pair.end()
        all_gone(processes)


def talk(conversation: Conversation) -> list:
    """A dialogue that goes back, forks and draws; all its events."""
    events = [*conversation.send("What is 12 + 30?"), *conversation.send("And 5 more?")]
    conversation.undo()
    other = conversation.fork()
    drawn = Sampling(0.9, seed=3)
    other.settings = replace(conversation.settings, thinking=Thinking("thinking"), sampling=drawn)
    return [*events, *other.send("Hello"), *conversation.send("Thank you"), other.turns]


def test_a_dialogue_over_two_ranks_is_that_of_one_process(tmp_path: Path) -> None:
    model, tokenizer = load(embedded_model(), backend="cpu")
    here = Conversation(Engine(model), tokenizer, SETTINGS)
    expected = talk(here)
    with two_ranks() as (_, engine):
        there = Conversation(None, tokenizer, SETTINGS, side=engine.side(()))
        assert talk(there) == expected
        assert there.turns == here.turns
        # What two ranks saved one process goes on with, and the other way round.
        there.save_cache(tmp_path / "two.kv")
        here.save_cache(tmp_path / "one.kv")
        here.load_cache(tmp_path / "two.kv")
        there.load_cache(tmp_path / "one.kv")
        answers = [[*one.send("Go on")] for one in (here, there)]
        assert answers[0] == answers[1]
        assert isinstance(answers[0][-1], Done) and answers[0][-1].usage.cached_tokens > 0


def test_each_rank_needs_its_own_half_of_the_folder_alone(tmp_path: Path) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    for part, layers in ((first, "0:3"), (last, "3:5")):
        assert convert([str(embedded_model()), str(part), "--layers", layers]) == 0
    model, tokenizer = load(embedded_model(), backend="cpu")
    here = Conversation(Engine(model), tokenizer, SETTINGS)
    with two_ranks(folders=(last, first)) as (_, engine):
        there = Conversation(None, tokenizer, SETTINGS, side=engine.side(()))
        assert [*there.send("What is CSA?")][:-1] == [*here.send("What is CSA?")][:-1]
        assert there.turns == here.turns
    with (
        pytest.raises(PipelineError, match=r"rank 1 \(.*\) is to run .* layers 3 to 4 alone"),
        two_ranks(folders=(last, last)),
    ):
        pass


def resident(pid: int) -> int:
    """Bytes of a process that lie in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def conversations(count: int) -> None:
    """So many in a row, each with a fork and a way back; the first fifth may grow."""
    tokenizer = Tokenizer(embedded_model())
    with two_ranks() as (pair, engine):
        pids = [one.process.pid for one in pair._processes]
        answers, before = set(), [0, 0]
        for number in range(count):
            if number == count // 5:
                before = [resident(pid) for pid in pids]
            settings = replace(SETTINGS, max_tokens=4)
            conversation = Conversation(None, tokenizer, settings, side=engine.side(()))
            talk(conversation)
            answers.add(conversation.turns[-1].messages[-1]["content"])
        after = [resident(pid) for pid in pids]
        assert len(answers) == 1
        grown = [late - early for late, early in zip(after, before, strict=True)]
        assert max(grown) < GROWTH_BYTES, f"{grown} bytes more than {before}"
        assert [one.status for one in pair._processes] == [None, None]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_twenty_conversations_leave_nothing() -> None:
    conversations(20)


def test_a_rank_that_is_stopped_is_given_up_and_a_new_pair_goes_on() -> None:
    tokenizer = Tokenizer(embedded_model())
    with two_ranks(limit_s=8.0) as (pair, engine):
        conversation = Conversation(None, tokenizer, SETTINGS, side=engine.side(()))
        list(conversation.send("What is 12 + 30?"))
        turns = conversation.turns
        worker = pair._processes[1].process
        worker.send_signal(signal.SIGSTOP)
        with pytest.raises(PipelineError, match=r"^rank 1 \(.*\) has not answered for \d+ s"):
            list(conversation.send("And 5 more?"))
        worker.send_signal(signal.SIGCONT)
        assert conversation.turns == turns
        again = pair.open(str(embedded_model()), "2026-04")
        all_gone([worker.pid])
        conversation = Conversation(None, tokenizer, SETTINGS, side=again.side(turns))
        assert list(conversation.send("And 5 more?"))
        assert conversation.turns[0] == turns[0]


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("join", r"^rank 1 \(mini\.local\) was met, but MLX made no connection to it within 12 s"),
        ("RankFolder.load", r"^rank 1 \(.*\) has not answered for \d+ s"),
    ],
)
def test_a_worker_that_is_stopped_before_it_has_loaded_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, sentence: str
) -> None:
    does = "from dsv4_mlx import forming\n"
    does += f"forming.{where} = lambda *_, **__: os.kill(os.getpid(), signal.SIGSTOP)"
    worker = PeerHost("mini.local", HERE.addresses, python=worker_that(tmp_path, does))
    for name, value in {**with_ssh(tmp_path), "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    started: list[RankProcess] = []

    def noted(*given: Any) -> RankProcess:
        started.append(processes.start(*given))
        return started[-1]

    monkeypatch.setattr(starting, "start", noted)
    names = (HERE.ssh, worker.ssh)
    work = RankWork(0, free_ring(), names, "token", 12.0, "", backend="cpu")
    with pytest.raises(PipelineError, match=sentence):
        RankPair((HERE, worker), work).open(str(embedded_model()), "2026-04")
    assert len(started) == 2
    all_gone([one.process.pid for one in started])


def test_one_answer_of_ranks_that_somebody_started_is_that_of_one_process(tmp_path: Path) -> None:
    options = ["-p", "What is 12 + 30?", "--temp", "0", "--backend", "cpu", "--max-tokens", "40"]
    alone = run(*options, "--no-save")
    first, second = Ranks(tmp_path).run([*options, "--no-save"])
    assert (first.status, first.stdout) == (0, alone.stdout) and alone.stdout
    assert ") has layers 0 to 2 of 5 and needs" in first.stderr
    assert (second.status, second.stdout) == (0, "")
