"""A conversation whose model is another program's says and keeps what one in this program does."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest

from cli.ranks.far_side import FarEngine, listening
from cli.ranks.messages import FarCall, FarEnd, FarLoaded, Pipes
from cli.ranks.side_server import Calls, SideServer
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, TextDelta
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import CacheError, PipelineError, PromptError
from dsv4_mlx.scripted.engine import NANO, scripted_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply
from tests.cli.ranks.pipes import two_pipes

SETTINGS = AnswerSettings(Thinking("chat"))
TOKENIZER = Tokenizer(NANO)
REPLIES = ("The first answer.", "The second one, which is longer.", "The third.")


def script(*replies: ScriptedReply) -> Script:
    told = replies or tuple(ScriptedReply(text) for text in REPLIES)
    return Script(tuple((one,) for one in told), context=4096)


SERVERS: list[SideServer] = []


@contextmanager
def far(told: Script) -> Iterator[FarEngine]:
    """The engine of a server that runs on a thread, on which the model's arrays are made."""
    here, there = two_pipes()

    def serve() -> None:
        engine = scripted_engine(told, TOKENIZER)
        calls = Calls(there, lambda: None)
        with suppress(PipelineError):
            SERVERS[:] = [SideServer(engine, TOKENIZER, "2026-04", None, there, calls)]
            SERVERS[0].serve()

    thread = Thread(target=serve)
    thread.start()
    loaded = FarLoaded(None, told.context)
    try:
        yield FarEngine(here, loaded, listening(here), lambda: "rank 0 ended.")
    finally:
        here._writing.close()
        thread.join()


def near_and_far(told: Script, work: Callable[[Conversation, list], None]) -> None:
    """What `work` notes must be the same of a conversation here and of one elsewhere."""
    noted: list[list] = []
    engine = scripted_engine(told, TOKENIZER)
    with far(told) as elsewhere:
        for conversation in (
            Conversation(engine, TOKENIZER, SETTINGS),
            Conversation(None, TOKENIZER, SETTINGS, side=elsewhere.side(())),
        ):
            notes: list = []
            work(conversation, notes)
            notes += [conversation.turns, conversation.context()]
            noted.append(notes)
    assert noted[0] == noted[1]


def test_a_whole_dialogue_is_the_same(tmp_path: Path) -> None:
    def work(conversation: Conversation, notes: list) -> None:
        notes += conversation.send("one")
        notes += conversation.send("two", shared="tw")
        notes.append(conversation.undo())
        other = conversation.fork()
        notes += conversation.send("another two")
        notes += other.send("two again")
        notes += [other.turns, other.context(), conversation.prompt_tokens((), "hello")]
        notes += conversation.edit(1, "begin anew")
        conversation.save_cache(tmp_path / "cache.kv")
        turns = conversation.turns
        conversation.clear()
        notes += [conversation.turns, conversation.context()]
        conversation.load_cache(tmp_path / "cache.kv")
        conversation.turns = turns
        notes += conversation.retry()

    near_and_far(script(), work)


def test_errors_are_the_same_and_change_nothing() -> None:
    def work(conversation: Conversation, notes: list) -> None:
        notes += conversation.send("one")
        for fails in (
            lambda: list(conversation.send("word " * 5000)),
            lambda: conversation.load_cache("/no/such/file"),
        ):
            with pytest.raises((PromptError, CacheError, OSError)) as caught:
                fails()
            notes += [type(caught.value), str(caught.value), conversation.turns]

    near_and_far(script(), work)


def test_a_mistake_of_ours_is_a_sentence_and_its_trace_goes_to_the_log(capfd, caplog) -> None:
    with (
        caplog.at_level("INFO", "dsv4_mlx"),
        far(script(ScriptedReply("Hm.", crash="boom"))) as engine,
    ):
        conversation = Conversation(None, TOKENIZER, SETTINGS, side=engine.side(()))
        with pytest.raises(PipelineError) as caught:
            list(conversation.send("one"))
        assert conversation.turns == ()
    failed = "rank 0 (this machine) failed: RuntimeError: boom; start both ranks again."
    assert str(caught.value) == failed
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError]
    assert "Traceback" not in capfd.readouterr().err  # of a process that keeps no log


@pytest.mark.parametrize("text", [b"hello\n", b"\x80\x05cno.such\nmodule\n.", b"\x80\x05]"])
def test_what_something_else_wrote_into_a_pipe_is_its_end(text: bytes) -> None:
    with pytest.raises(EOFError):
        Pipes(BytesIO(text), BytesIO()).receive()


def test_ctrl_c_reaches_rank_0() -> None:
    told = script(ScriptedReply("One more. ", repeat=300, delay_ms=5))
    with far(told) as engine:
        conversation = Conversation(None, TOKENIZER, SETTINGS, side=engine.side(()))
        events = []
        for event in conversation.send("go"):
            events.append(event)
            if isinstance(event, TextDelta):
                conversation.cancel()
        assert isinstance(events[-1], Done) and events[-1].finish_reason == "cancelled"
        assert len(conversation.turns) == 1


def test_sides_that_nobody_has_are_let_go() -> None:
    with far(script()) as engine:
        first = Conversation(None, TOKENIZER, SETTINGS, side=engine.side(()))
        list(first.send("one"))
        for _ in range(3):
            list(first.fork().send("two"))
        assert engine._numbers == 4
        while not engine._dropped:  # the thread that did the last job lets go of it a moment later
            os.sched_yield()
        list(first.send("two"))
        assert list(SERVERS[0]._sides) == [1]


def test_the_end_of_the_ranks_is_one_sentence_and_keeps_the_turns() -> None:
    here, there = two_pipes()
    engine = FarEngine(here, FarLoaded(None, 4096), listening(here), lambda: "rank 0 ended.")
    conversation = Conversation(None, TOKENIZER, SETTINGS, side=engine.side(()))
    there.send(FarEnd("rank 1 (mini) is gone."))
    for _ in range(2):  # and whenever it is asked again
        with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) is gone\.$"):
            list(conversation.send("one"))
    assert engine.problem and conversation.turns == ()


def test_an_end_without_a_sentence_is_explained_here() -> None:
    here, there = two_pipes()
    engine = FarEngine(here, FarLoaded(None, 4096), listening(here), lambda: "rank 0 ended.")
    there._writing.close()
    with pytest.raises(PipelineError, match=r"^rank 0 ended\.$"):
        engine.call(FarCall(1, "clear"), cancelled=Flag())


def test_rank_0_does_nothing_that_a_side_does_not_offer() -> None:
    with far(script()) as engine:
        answer = engine.call(FarCall(1, "__init__"))
        assert isinstance(answer.error, PipelineError)
