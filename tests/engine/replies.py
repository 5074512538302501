"""Replies of every kind, written by a session as the chat program writes them."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dsv4_mlx.chat.budget import ReasoningBudget
from dsv4_mlx.chat.reply import FinishedReply, Reply
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.engine.draft_history import Regime
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.engine.session import Session
from tests.cli.scripted import reply_tokens
from tests.engine.sessions import SetAfter

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "0.7": {"temperature": 0.7},
    "1.0": {"temperature": 1.0},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "penalty": {"temperature": 0.7, "repetition_penalty": 1.2},
}
KINDS = (
    "answer",
    "budget of 0",
    "budget that ends",
    "in a tool call",
    "end of a tool call",
    "stop token",
    "stop text",
)
_CHAT, _THINKING = Thinking("chat"), Thinking("thinking", "high")
_LOOK = {"name": "look", "parameters": {"type": "object"}}
_CALL = f'<{DSML}tool_calls>\n<{DSML}invoke name="look">\n'
_VALUE, _VALUE_ENDS = f'<{DSML}parameter name="at" string="true">', f"</{DSML}parameter>"
_CALL_ENDS = f"</{DSML}inv>"  # as some replies end one, in fewer tokens


@dataclass
class Said:
    """A reply: its tokens and what each belongs to, the events of its text, and how it ended."""

    tokens: list[Token] = field(default_factory=list)
    regimes: list[Regime] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    finished: FinishedReply | None = None

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def say(
    session: Session,
    tokenizer: Tokenizer,
    kind: str,
    max_tokens: int,
    *,
    cancel: int | None = None,
    **sampling: Any,
) -> Said:
    """A reply of at most `max_tokens` tokens, cancelled after `cancel` of them.

    Short replies of small models hold no calls and end no reasoning by themselves, so that kinds
    begin inside of one, and some tokens are decided as a budget's `</think>` is.
    """
    said, length, places = Said(), len(session), itertools.count()
    reply, begun, decided = _reply(kind, tokenizer, said.events)
    reply.write(iter([Token(token, 0.0) for token in begun]))

    def steer() -> int | None:
        said.regimes.append(reply.regime())
        asked = reply.steer()
        return decided.get(next(places), asked)

    stream = session.stream(
        max_tokens,
        cancel=None if cancel is None else SetAfter(cancel),
        steer=steer,
        regime=reply.regime,
        **sampling,
    )
    reply.write(_noted(stream, said.tokens), session.hold)
    said.finished = reply.close()
    if said.finished.stop_text is not None:
        session.rewind(length + said.finished.kept)
    return said


def _noted(stream: Iterator[Token], tokens: list[Token]) -> Iterator[Token]:
    for token in stream:
        tokens.append(token)
        yield token


def _reply(
    kind: str, tokenizer: Tokenizer, events: list[Any]
) -> tuple[Reply, list[int], Mapping[int, int]]:
    """A reply, the tokens that it begins with, and those of the session's that are decided."""
    note = events.append
    if kind == "budget of 0":
        return Reply(tokenizer, _THINKING, note, budget=ReasoningBudget(0), loops="off"), [], {}
    if kind == "budget that ends":
        budget = ReasoningBudget(3)
        assert budget.hard_limit is not None
        begun = tokenizer.encode("a") * (budget.hard_limit - 2)
        return Reply(tokenizer, _THINKING, note, budget=budget, loops="off"), begun, {}
    if kind in ("in a tool call", "end of a tool call"):
        reply = Reply(tokenizer, _CHAT, note, tools=[_LOOK], loops="off")
        if kind == "in a tool call":
            ends = dict(enumerate(reply_tokens(tokenizer, _VALUE_ENDS), 2))
            return reply, reply_tokens(tokenizer, _CALL + _VALUE), ends
        ends = dict(enumerate([*reply_tokens(tokenizer, _CALL_ENDS), tokenizer.eos_id]))
        return reply, reply_tokens(tokenizer, _CALL), ends
    if kind == "stop token":
        return Reply(tokenizer, _CHAT, note), [], {3: tokenizer.eos_id}
    if kind == "stop text":
        (last,) = tokenizer.encode("q")
        return Reply(tokenizer, _CHAT, note, stop=["q"]), [], {4: last}
    assert kind == "answer", kind
    return Reply(tokenizer, _CHAT, note), [], {}
