"""A task: a conversation that waits for a reply, the reply that is taught, and the judge."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import Prompt, encode_messages
from dsv4_mlx.training.data.judging import Answer, ParsedReply

Kind = Literal["arithmetic", "tools", "no_tool", "recall", "help", "follow_up", "talk"]
Split = Literal["train", "held_out"]
MessageDict = Mapping[str, Any]

_HELD_OUT_SHARE = 10  # one fact in so many belongs to the evaluation


@dataclass(frozen=True)
class Task:
    """One question with everything that is needed to ask, to teach and to judge it.

    `messages` are official message dictionaries up to the moment when the model answers; where
    tools are offered, the first is a system message that carries `tools`. `reply` is the assistant
    message that is taught, `after` what follows it in a lesson: results of tools with their
    answers, and further questions. `copied` is what the assistant takes over from the conversation
    word for word, which counts more. `traits` are what a report groups by, such as digits.
    """

    kind: Kind
    template: str  # which wording it was made from
    messages: tuple[MessageDict, ...]
    thinking_mode: ThinkingMode
    answer: Answer
    reply: MessageDict
    tools: tuple[MessageDict, ...] = ()
    after: tuple[MessageDict, ...] = ()
    copied: tuple[str, ...] = ()
    traits: Mapping[str, int | str] = field(default_factory=dict)

    def judge(self, reply: ParsedReply) -> bool:
        """Whether a parsed reply (`ReplyParser.close()`) is right."""
        return self.answer.accepts(reply)

    def prompt(self) -> Prompt:
        """What the model is asked, in the official encoding."""
        return encode_messages(self.messages, thinking_mode=self.thinking_mode)

    def lesson(self) -> tuple[MessageDict, ...]:
        """The whole conversation as it is taught."""
        return (*self.messages, self.reply, *self.after)


def in_split(fact: str, split: Split) -> bool:
    """Whether a fact, written as text, belongs to `split`; the same on every machine."""
    held_out = zlib.crc32(fact.encode()) % _HELD_OUT_SHARE == 0
    return held_out == (split == "held_out")


def assistant(content: str, reasoning: str, mode: ThinkingMode) -> dict[str, Any]:
    """An assistant message; in chat mode without reasoning."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if mode == "thinking":
        message["reasoning_content"] = reasoning
    return message


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}
