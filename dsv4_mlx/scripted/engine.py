"""The chat program's engine without a model: it says what a script says, token for token.

Everything but the weights is real: the engine, its sessions and their rewinds, and the tokenizer,
which is that of the embedded model. See `dsv4_mlx.scripted.script` for the file.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.chat.encoding import Prompt, encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, END_THINK, THINK
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import BackendError
from dsv4_mlx.scripted.fake import FakeCache, FakeModel, fake_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply, read_script

NANO = Path(__file__).parents[1] / "nano"
"""The folder of the embedded model, whose tokenizer is used."""

_CERTAIN = 1e4
"""A logit so far above the others, which are 0, that no temperature draws one of them."""


def open_scripted(path: str | Path) -> tuple[Engine, Tokenizer]:
    """The engine that follows the script in the file `path`; UsageError if it is no script."""
    script = read_script(path)
    tokenizer = Tokenizer(NANO)
    time.sleep(script.load_ms / 1e3)
    return scripted_engine(script, tokenizer), tokenizer


def scripted_engine(script: Script, tokenizer: Tokenizer) -> Engine:
    """The engine that follows `script`."""
    return fake_engine(
        ScriptedModel(script, tokenizer),
        prefill_chunk=script.chunk,
        snapshot_bytes=script.snapshot_bytes,
    )


@dataclass(frozen=True)
class _Line:
    """A reply as tokens, the closing EOS included."""

    tokens: Sequence[int]
    reply: ScriptedReply

    @property
    def fails(self) -> bool:
        return bool(self.reply.error or self.reply.crash)


@dataclass
class _Place:
    """How far a history has been read, so that one more token costs the same however long it is."""

    history: list[int]
    read: int = 0
    turn: int = -1
    tag: int | None = None
    """The thinking tag after the assistant token; None before it."""
    said: int = 0
    """Place in the replies where the next token stands."""
    lines: list[_Line] = field(default_factory=list)
    """The replies that begin with what was said."""


class ScriptedModel(FakeModel):
    """Says the replies of `script`, turn after turn, in the time that the script gives."""

    fingerprint = "scripted"

    def __init__(self, script: Script, tokenizer: Tokenizer):
        super().__init__(vocab_size=tokenizer.vocab_size, max_position_embeddings=script.context)
        self._script = script
        self._tokenizer = tokenizer
        self._place = _Place([])
        self._failed: set[int] = set()
        self._lines = cache(self._written)

    def __call__(self, tokens: mx.array, cache: list[FakeCache]) -> mx.array:
        """Token ids [1, S] -> logits [1, S, V] float32, after the time it takes."""
        output = super().__call__(tokens, cache)
        lines = self._place.lines
        time.sleep(self._delay_ms(tokens.shape[1], lines[0].reply if lines else None) / 1e3)
        return output

    def _delay_ms(self, count: int, reply: ScriptedReply | None) -> float:
        if count > 1:
            return self._script.prefill_ms * min(1.0, count / self._script.chunk)
        return reply.delay_ms if reply else 0.0

    def logits(self, history: Sequence[int]) -> np.ndarray:
        """[V] float32: the next token of the script, or each that may be."""
        place = self._arrive(history)
        values = np.zeros(self.config.vocab_size, np.float32)
        for line in place.lines:
            if line.fails and place.said == len(line.tokens) - 1:
                self._fail(place.turn, line.reply)
            values[line.tokens[min(place.said, len(line.tokens) - 1)]] = _CERTAIN
        if not place.lines:
            values[self._tokenizer.eos_id] = _CERTAIN
        return values

    def _fail(self, turn: int, reply: ScriptedReply) -> None:
        if turn in self._failed:
            return
        self._failed.add(turn)
        raise BackendError(reply.error) if reply.error else RuntimeError(reply.crash)

    def _arrive(self, history: Any) -> _Place:
        """The place after `history`. A restored cache has a new list, which is read anew."""
        if self._place.history is not history or len(history) < self._place.read:
            self._place = _Place(history)
        place = self._place
        for token in history[place.read :]:
            self._pass(place, token)
        place.read = len(history)
        return place

    def _pass(self, place: _Place, token: int) -> None:
        controls = self._tokenizer.control_ids
        if token == controls[ASSISTANT]:
            place.turn, place.tag, place.said, place.lines = place.turn + 1, None, 0, []
        elif place.turn >= 0 and place.tag is None:
            place.tag = token
            place.lines = list(self._lines(place.turn % len(self._script.replies), token))
        elif place.lines:
            self._say(place, token, controls[END_THINK])

    def _say(self, place: _Place, token: int, end_think: int) -> None:
        following = [line for line in place.lines if _token(line, place.said) == token]
        if token == self._tokenizer.eos_id:
            place.lines = []
        elif following:
            place.lines, place.said = following, place.said + 1
        elif token == end_think:
            # Somebody ended the reasoning early, and the answer comes.
            place.said = _after(place.lines[0].tokens, end_think)
            place.lines = place.lines[:1]
        else:
            place.said += 1

    def _written(self, turn: int, tag: int) -> tuple[_Line, ...]:
        """The replies of a turn after the thinking tag `tag`, as the release's encoder writes
        them."""
        thinks = tag == self._tokenizer.control_ids[THINK]
        return tuple(
            _Line(self._tokens(reply, thinks), reply) for reply in self._script.replies[turn]
        )

    def _tokens(self, reply: ScriptedReply, thinks: bool) -> list[int]:
        # A failing reply has a space to spare: the token before the failure is never shown.
        spare = self._tokenizer.encode("  ")[:1] if reply.error or reply.crash else []
        if not reply.ends_reasoning and thinks:
            tokens = self._tokenizer.encode(reply.reasoning)
        else:
            tokens = self._tokenizer.encode(_prompt(reply, thinks))
        return [*tokens, *spare, self._tokenizer.eos_id]


def _prompt(reply: ScriptedReply, thinks: bool) -> Prompt:
    """A whole reply as the encoder writes it after a user's message."""
    message = {
        "role": "assistant",
        "content": reply.answer,
        "reasoning_content": reply.reasoning,
        "tool_calls": [{"type": "function", "function": call} for call in reply.tool_calls],
        "wo_eos": True,
    }
    return encode_messages(
        [message],
        context=[{"role": "user", "content": ""}],
        thinking_mode="thinking" if thinks else "chat",
        drop_thinking=False,
    )


def _token(line: _Line, place: int) -> int:
    return line.tokens[min(place, len(line.tokens) - 1)]


def _after(tokens: Sequence[int], end_think: int) -> int:
    """The place after the end of the reasoning; the end of a reply that only thinks."""
    return list(tokens).index(end_think) + 1 if end_think in tokens else len(tokens) - 1
