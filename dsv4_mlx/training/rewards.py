"""What an answer is worth: rewards that a program can verify.

A right answer is worth 1: the number is exact, or the one call that fits is made with its exact
arguments, or none is made where none fits (`Task.judge`). A wrong one that came to its end is worth
`WELL_FORMED`; one that ran into the limit, left its reasoning open or broke the markup of a call is
worth nothing, right or not. The small share for the form keeps a group without a right answer from
being worth nothing altogether, so that ending well is learnt first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dsv4_mlx.chat.marks import MarkedTokens
from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.chat.strict import parse_strict
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.training.data.judging import ParsedReply
from dsv4_mlx.training.data.task import Task
from dsv4_mlx.training.rollouts import Sample

WELL_FORMED = 0.1


@dataclass(frozen=True)
class Verdict:
    """What was found of one answer."""

    is_right: bool
    is_well_formed: bool

    @property
    def reward(self) -> float:
        if not self.is_well_formed:
            return 0.0
        return 1.0 if self.is_right else WELL_FORMED


def verdict(tokenizer: Tokenizer, task: Task, sample: Sample) -> Verdict:
    """Judge a sampled answer to `task`."""
    reply = parsed_reply(tokenizer, task, sample.tokens)
    return Verdict(task.judge(reply), _is_well_formed(tokenizer, task, sample.tokens))


def parsed_reply(tokenizer: Tokenizer, task: Task, tokens: Sequence[int]) -> ParsedReply:
    """The message that the tokens of an answer stand for."""
    marked, text = _marked(tokenizer, tokens)
    parser = ReplyParser(task.thinking_mode, spelled=marked.spelled, tools=task.tools)
    parser.feed(text)
    return parser.close()


def _is_well_formed(tokenizer: Tokenizer, task: Task, tokens: Sequence[int]) -> bool:
    """Whether the official parser would take it: reasoning closed, calls whole, then the end."""
    try:
        parse_strict(_marked(tokenizer, tokens)[1], task.thinking_mode)
    except ChatError:
        return False
    return True


def _marked(tokenizer: Tokenizer, tokens: Sequence[int]) -> tuple[MarkedTokens, str]:
    """The text of tokens, control tokens as marks."""
    marked = MarkedTokens(tokenizer)
    pieces = [marked.add(token) for token in tokens]
    return marked, "".join(pieces) + marked.finish()
