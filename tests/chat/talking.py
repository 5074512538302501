"""Conversations on a fake model that follows a script, and what they did."""

from dataclasses import fields, replace

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, Event, Progress
from dsv4_mlx.chat.parsing import merge_deltas
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.sampling import Sampling
from tests.cli.scripted import scripted_engine

CHAT, THINKING = Thinking("chat"), Thinking("thinking", "high")


def talk(tokenizer: Tokenizer, *replies: str, thinking: Thinking = CHAT, **options) -> Conversation:
    """A greedy conversation whose n-th turn is answered with `replies[n]`."""
    context = options.pop("context", 1 << 20)
    snapshot_bytes = options.pop("snapshot_bytes", 1 << 30)
    options.setdefault("sampling", Sampling(temperature=0.0))
    engine = scripted_engine(tokenizer, replies, context=context)
    engine.snapshot_bytes = snapshot_bytes
    return conversation_with(engine, tokenizer, thinking, **options)


def conversation_with(engine, tokenizer, thinking: Thinking, **options) -> Conversation:
    """A conversation; `options` that are no settings of answers are its own."""
    names = {field.name for field in fields(AnswerSettings)}
    settings = {name: options.pop(name) for name in names & options.keys()}
    return Conversation(engine, tokenizer, AnswerSettings(thinking, **settings), **options)


def change(conversation: Conversation, **settings) -> None:
    """Set some settings of its next answer."""
    conversation.settings = replace(conversation.settings, **settings)


def outcome(events) -> tuple[list[Event], Done]:
    """The events between progress and Done, deltas joined, and Done."""
    *events, done = events
    assert isinstance(done, Done)
    said = [event for event in events if not isinstance(event, Progress)]
    return merge_deltas(said), done


def answer(conversation: Conversation, text: str, **options) -> tuple[list[Event], Done]:
    """The outcome of sending `text`."""
    return outcome(conversation.send(text, **options))


def read_by(conversation: Conversation, events) -> tuple[int, Done]:
    """Prompt tokens that the model read for these events, and Done."""
    calls = conversation._model_side._engine.model.calls
    before = len(calls)
    *_, done = events
    # Each generated token is a call of its own.
    return sum(calls[before:]) - done.usage.completion_tokens, done
