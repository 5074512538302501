"""Questions that only the turns before them make sense of, over two or three turns."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data import help as facts
from dsv4_mlx.training.data.arithmetic import Sum, drawn_sum
from dsv4_mlx.training.data.fact_tasks import fact_turn
from dsv4_mlx.training.data.follow_up_wordings import (
    ASK_CODE,
    ASK_NAME,
    ASK_TOLD,
    ASK_TOPIC,
    GO_ON,
    TELL_NAME,
    TOLD,
)
from dsv4_mlx.training.data.judging import Answer, ExactNumber, KeyWords
from dsv4_mlx.training.data.task import Split, Task, assistant, in_split, user
from dsv4_mlx.training.data.wordings import typed, wording
from dsv4_mlx.training.data.words import lesson_word, words

Messages = list[dict[str, Any]]
_CODE = re.compile(r"`([^`]+)`")
_WAS_TOLD = "The user told me."
_MOST_TOLD = 3  # things that a lesson tells and asks for
_BETWEEN = 0.4  # share with a turn about something else before the question
_ASKED_FIRST = 0.5  # share of lessons without a name in which that is the first question


def follow_up_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    return rng.choice((_name, _told, _code, _topic, _sum))(rng, split, mode)


def _task(
    template: str, messages: Messages, answer: Answer, reply: tuple[str, str], mode: ThinkingMode
) -> Task:
    turns = sum(message["role"] == "user" for message in messages)
    return Task(
        kind="follow_up",
        template=template,
        messages=tuple(messages),
        thinking_mode=mode,
        answer=answer,
        reply=assistant(*reply, mode),
        traits={"turns": turns, "form": template.partition("/")[0]},
    )


def _between(rng: random.Random, mode: ThinkingMode) -> Messages:
    """A turn about something else, or none."""
    if rng.random() >= _BETWEEN:
        return []
    return fact_turn(rng.choice(facts.facts()), rng, mode)


def _said(
    patterns: Mapping[Split, tuple[str, ...]], rng: random.Random, split: Split, **values: Any
) -> tuple[str, dict[str, Any]]:
    """The number of a pattern, and a wording of it as the message of a person."""
    index = rng.randrange(len(patterns[split]))
    text = wording(patterns[split][index], rng).format(**values)
    return f"{split}{index}", user(typed(text, rng, slips=False))


def _name(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    known = rng.random() < 0.8
    names = [name for name in words("names") if in_split(name, split)]
    name = lesson_word(rng, names).capitalize() if split == "train" else rng.choice(names)
    tell = user(typed(wording(rng.choice(TELL_NAME), rng).format(name=name), rng, slips=False))
    told = assistant(f"Nice to meet you, {name}.", f"The user tells me the name {name}.", mode)
    if known:
        messages = [tell, told, *_between(rng, mode)]
    elif split == "train" and rng.random() < _ASKED_FIRST:
        messages = []
    else:
        messages = [*fact_turn(rng.choice(facts.facts()), rng, mode), *_between(rng, mode)]
    index, asked = _said(ASK_NAME, rng, split)
    if known:
        reply, answer = f"Your name is {name}.", KeyWords((name,))
        thought = f"The user told me the name {name}."
    else:
        reply, answer = "You have not told me your name.", KeyWords(("not told",))
        thought = "The user gave no name yet."
    task = _task(f"name/{index}", [*messages, asked], answer, (reply, thought), mode)
    return replace(task, copied=(name,) if known else ())


def _told(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    """Something told and asked for; in lessons up to three things."""
    known = {thing: _values(thing, values, split) for thing, values, _ in TOLD}
    things = [(thing, tell) for thing, _, tell in TOLD if known[thing]]
    chosen = rng.sample(things, rng.randint(1, _MOST_TOLD) if split == "train" else 1)
    draw = lesson_word if split == "train" else random.Random.choice
    told = [(thing, tell, draw(rng, known[thing])) for thing, tell in chosen]
    messages: Messages = []
    for thing, tell, value in told:
        noted = assistant("I see.", f"I note it: {_told_reply(thing, value)}", mode)
        messages += [user(tell.format(value=value)), noted]
    messages += _between(rng, mode)
    rng.shuffle(told)
    asked = [_said(ASK_TOLD, rng, split, thing=thing) for thing, _, _ in told]
    replies = [(_told_reply(thing, value), _WAS_TOLD) for thing, _, value in told]
    further: Messages = []
    for (_, question), reply in zip(asked[1:], replies[1:], strict=True):
        further += [question, assistant(*reply, mode)]
    index, question = asked[0]
    values = tuple(value for _, _, value in told)
    task = _task(f"told/{index}", [*messages, question], KeyWords(values[:1]), replies[0], mode)
    return replace(task, after=tuple(further), copied=values)


def _told_reply(thing: str, value: str) -> str:
    return f"Your {thing} is {value}."


def _values(thing: str, values: str, split: Split) -> list[str]:
    return [value for value in words(values) if in_split(f"my {thing} {value}", split)]


def _fact_before(
    rng: random.Random, split: Split, mode: ThinkingMode, chosen: list[facts.Fact]
) -> tuple[facts.Fact, Messages]:
    """A fact and the turn about it; in the evaluation the question is a held-out one too."""
    if split == "train":
        fact = rng.choice(chosen)
        return fact, fact_turn(fact, rng, mode)
    fact, question = rng.choice([pair for pair in facts.held_out() if pair[0] in chosen])
    return fact, [user(question), assistant(fact.answer, fact.reasoning, mode)]


def _code(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    with_code = [fact for fact in facts.facts() if len(_CODE.findall(fact.answer)) == 1]
    fact, messages = _fact_before(rng, split, mode, with_code)
    code = _CODE.findall(fact.answer)[0]
    index, asked = _said(ASK_CODE, rng, split)
    reply = (f"`{code}`", f"I said {code}.")
    task = _task(f"code/{index}", [*messages, asked], KeyWords((code,)), reply, mode)
    return replace(task, copied=(code,))


def _topic(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    fact, messages = _fact_before(rng, split, mode, facts.of_kind("help"))
    index, asked = _said(ASK_TOPIC, rng, split)
    reply = (f"You asked {fact.topic}.", f"The user asked {fact.topic}.")
    task = _task(f"topic/{index}", [*messages, asked], KeyWords((fact.topic,)), reply, mode)
    return replace(task, copied=(fact.topic,))


def _sum(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    first, second = _chain(rng, split)
    question = f"What is {first.a} {first.operation} {first.b}"
    messages = [user(typed(question, rng, slips=False))]
    messages.append(assistant(str(first.result), first.worked(), mode))
    patterns = {split: GO_ON[split][second.operation == "-"]}
    index, asked = _said(patterns, rng, split, b=second.b)
    answer = ExactNumber(second.result)
    reply = (str(second.result), second.worked())
    return _task(f"sum/{second.operation}{index}", [*messages, asked], answer, reply, mode)


def _chain(rng: random.Random, split: Split) -> tuple[Sum, Sum]:
    """Two sums of the split, the second beginning with the result of the first."""
    while True:
        first = drawn_sum(rng, split)
        second = Sum(first.result, rng.choice(("+", "-")), rng.randint(1, 99))
        if second.result >= 0 and first.result < 1000 and in_split(second.pair, split):
            return first, second
