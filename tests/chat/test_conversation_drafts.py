"""Conversations with drafts are those without: events, counts and turns, tool calls among them."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import BudgetReached, Done
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.loading import load
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.chat.talking import CHAT, THINKING, answer, change, outcome, talk
from tests.chat.test_conversation_tools import LOOK, calling
from tests.engine.small_models import SMALL

SENTENCE = "The quick brown fox jumps over the lazy dog. "
REPLIES = (
    f"{SENTENCE * 3}So I look.</think>{SENTENCE * 2}{calling('look', 'look')}",
    f"{SENTENCE * 2}I saw it.</think>{SENTENCE}It is red.",
    f"{SENTENCE}Stop here.</think>One END two.",
)


def told(tokenizer: Tokenizer, draft: DraftChoice, **sampling: float) -> tuple[list[object], int]:
    """Everything that three replies gave, and how many drafts were right."""
    settings = {"draft": draft, "tools": [LOOK], "sampling": Sampling(temperature=0.0, **sampling)}
    conversation = talk(tokenizer, *REPLIES, thinking=THINKING, **settings)
    found: list[object] = []
    accepted = 0

    def add(events: list, done: Done) -> None:
        nonlocal accepted
        use = done.draft
        accepted += 0 if use is None else use.accepted
        if use is not None:
            assert use.passes + use.accepted == done.usage.completion_tokens
        found.extend([*events, done.finish_reason, done.usage, done.stop_text])

    change(conversation, budget=20)
    add(*answer(conversation, f"{SENTENCE * 2}What colour?"))
    add(*outcome(conversation.answer_tools([("call_1", "red"), ("call_2", SENTENCE)])))
    change(conversation, stop=["END"], budget=None)
    add(*answer(conversation, "And now?"))
    found.append([turn.to_json() for turn in conversation.turns])
    return found, accepted


@pytest.mark.parametrize("penalty", [1.0, 1.01])
def test_a_conversation_with_tools_is_the_one_without_drafts(
    tokenizer: Tokenizer, penalty: float
) -> None:
    plain, none = told(tokenizer, "off", repetition_penalty=penalty)
    drafted, accepted = told(tokenizer, "lookup", repetition_penalty=penalty)
    assert drafted == plain
    assert none == 0 and accepted > 50
    assert any(isinstance(event, ToolCall) for event in plain)
    assert any(isinstance(event, BudgetReached) for event in plain)
    assert "stop_text" in plain


def test_context_tells_what_drafts_are_made_from(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "model", SMALL)
    model, tokenizer = load(folder, backend="cpu")
    engine = Engine(model)
    settings = AnswerSettings(CHAT, sampling=Sampling(temperature=0.0), max_tokens=3)

    def begin(draft: DraftChoice) -> Conversation:
        return Conversation(engine, tokenizer, replace(settings, draft=draft))

    plain = begin("off")
    answer(plain, "a")
    assert plain.context().drafts_know is None
    plain.save_cache(tmp_path / "cache")

    drafted = begin("mtp")
    assert drafted.context().drafts_know is None  # nothing is read yet
    answer(drafted, "a")
    use = drafted.context()
    assert use.drafts_know == use.used  # all of it
    assert asdict(drafted.turns[0]) == asdict(plain.turns[0])

    resumed = Conversation(engine, tokenizer, replace(settings, draft="mtp"), turns=plain.turns)
    resumed.load_cache(tmp_path / "cache")
    assert resumed.context().drafts_know == 0  # no drafter had read it
    answer(resumed, "b")
    use = resumed.context()
    assert use.drafts_know is not None and 0 < use.drafts_know < use.used
