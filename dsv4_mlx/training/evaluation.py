"""How well a model does what it was taught: greedy answers to held-out tasks, judged.

Answers are computed in batches by `rollouts`, row by row as alone but for the order of sums. What
comes out is counts; a table groups them by kind, mode and what matters for a kind, such as digits
and carries of a sum or the length of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.marks import MarkedTokens
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.training.data.help import held_out, written_facts
from dsv4_mlx.training.data.judging import ParsedReply
from dsv4_mlx.training.data.task import Task
from dsv4_mlx.training.rollouts import sampled_groups

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.model.v4 import Model

_MAX_TOKENS = 120
_GROUPED_BY = ("digits", "carries", "length", "turns", "tool")


@dataclass(frozen=True)
class Outcome:
    """A task, what was answered, and whether that is right; `tokens` is the prompt's length."""

    task: Task
    reply: ParsedReply
    right: bool
    tokens: int


@dataclass(frozen=True)
class Score:
    """How many tasks of a group were answered rightly."""

    group: str
    count: int
    right: int

    @property
    def percent(self) -> float:
        return 100 * self.right / max(1, self.count)


def outcomes(
    model: Model, tokenizer: Tokenizer, asked: Sequence[Task], *, rows: int = 32
) -> Iterator[Outcome]:
    """The judged greedy answer to every task, `rows` of them computed at a time.

    Prompts of one length are read together, so tasks are taken in the order of their lengths.
    """
    prompts = [tokenizer.encode(task.prompt()) for task in asked]
    order = sorted(range(len(asked)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        groups = sampled_groups(
            model,
            [prompts[place] for place in places],
            group=1,
            max_tokens=_MAX_TOKENS,
            stops=(tokenizer.eos_id,),
            seed=0,
            rows=rows,
            greedy=True,
        )
        for place, (sample,) in zip(places, groups, strict=True):
            task = asked[place]
            reply = parsed(tokenizer, sample.tokens, task.thinking_mode, task.tools)
            yield Outcome(task, reply, task.judge(reply), len(prompts[place]))


def parsed(
    tokenizer: Tokenizer,
    ids: Iterable[int],
    mode: ThinkingMode,
    tools: Sequence[Mapping[str, Any]] = (),
) -> ParsedReply:
    """The message that generated tokens stand for, as the program reads it."""
    marked = MarkedTokens(tokenizer)
    parser = ReplyParser(mode, spelled=marked.spelled, tools=tools)
    for token in ids:
        parser.feed(marked.add(token))  # the parser knows EOS
    parser.feed(marked.finish())
    return parser.close()


def scores(found: Iterable[Outcome]) -> list[Score]:
    """All of `found` together (group ""), then every group that its traits make."""
    counts: dict[str, list[bool]] = {"": []}
    for outcome in found:
        traits = outcome.task.traits
        named = [f"{name}={traits[name]}" for name in _GROUPED_BY if name in traits]
        for group in ("", " ".join(named)) if named else ("",):
            counts.setdefault(group, []).append(outcome.right)
    return [Score(group, len(right), sum(right)) for group, right in sorted(counts.items())]


def answer(
    model: Model,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    thinking_mode: ThinkingMode = "chat",
) -> str:
    """The greedy answer to a conversation, without its reasoning, by a session of its own."""
    session = Engine(model).session()
    session.sync(tokenizer.encode(encode_messages(messages, thinking_mode=thinking_mode)))
    ids = [token.id for token in session.stream(max_tokens=_MAX_TOKENS)]
    return str(parsed(tokenizer, ids, thinking_mode)["content"])


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
    """(right, question, answer) for every held-out wording of the written facts."""
    for fact, question in held_out(written_facts()):
        given = answers(model, tokenizer, [question], thinking_mode)[0]
        yield fact.answered_by(given), question, given
