"""Does nano answer? Held-out wordings of every fact, judged by the key words of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.marks import MarkedTokens
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.training.data.help import held_out, written_facts

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.model.v4 import Model

_MAX_TOKENS = 120


def answer(
    model: Model,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    thinking_mode: ThinkingMode = "chat",
) -> str:
    """The greedy answer to a conversation, without its reasoning."""
    session = Engine(model).session()
    session.sync(tokenizer.encode(encode_messages(messages, thinking_mode=thinking_mode)))
    ids = [token.id for token in session.stream(max_tokens=_MAX_TOKENS)]
    marked = MarkedTokens(tokenizer)
    parser = ReplyParser(thinking_mode, spelled=marked.spelled)
    for token in ids:
        parser.feed(marked.add(token))  # the parser knows EOS
    parser.feed(marked.finish())
    return str(parser.close()["content"])


def answers(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    thinking_mode: ThinkingMode = "chat",
) -> list[str]:
    """The greedy answer to each question, asked alone."""
    return [
        answer(model, tokenizer, [{"role": "user", "content": question}], thinking_mode)
        for question in questions
    ]


def judged(
    model: Model, tokenizer: Tokenizer, thinking_mode: ThinkingMode = "chat"
) -> Iterator[tuple[bool, str, str]]:
    """(right, question, answer) for every held-out wording."""
    for fact, question in held_out(written_facts()):
        given = answers(model, tokenizer, [question], thinking_mode)[0]
        yield fact.answered_by(given), question, given
