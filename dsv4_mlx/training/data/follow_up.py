"""Questions that only the turns before them make sense of, over two or three turns."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data import help as facts
from dsv4_mlx.training.data.arithmetic import Sum, drawn_sum
from dsv4_mlx.training.data.fact_tasks import fact_turn
from dsv4_mlx.training.data.judging import Answer, ExactNumber, KeyWords
from dsv4_mlx.training.data.task import Split, Task, assistant, in_split, user
from dsv4_mlx.training.data.wordings import typed, wording
from dsv4_mlx.training.data.words import words

Messages = list[dict[str, Any]]
_CODE = re.compile(r"`([^`]+)`")
_BETWEEN = 0.4  # share with a turn about something else before the question

_TELL_NAME = (
    "(My name is|I am|Call me|I am called|You can call me) {name}",
    "(Hello|Hi|Hey), (I am|my name is|this is) {name}",
    "{name} is my name",
)
_ASK_NAME: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What is my name",
        "(Do you know|Do you remember|Tell me|Can you tell me) (my name|what my name is|who I am)",
        "What am I called",
        "What was my name",
    ),
    "held_out": (
        "Please say my name",
        "Which name did I give you",
        "Which name is mine",
        "Could you say who I am",
        "By what name do you know me",
        "How am I called",
        "My name, please",
        "I wonder if you know my name",
        "Let me hear my name",
        "Name me",
    ),
}
_TOLD = (
    ("colour", "told_colours", "My favourite colour is {value}"),
    ("city", "told_cities", "I live in the city of {value}"),
    ("animal", "told_animals", "My animal is a {value}"),
)
_ASK_TOLD: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "(What|Which) is my {thing}",
        "(Do you know|Do you remember|Tell me) my {thing}",
        "What (did I say|was it) about my {thing}",
    ),
    "held_out": (
        "Please say my {thing}",
        "Which {thing} did I name",
        "Which {thing} is mine",
        "Could you name my {thing}",
        "My {thing}, please",
        "What {thing} did I tell you about",
        "Let me hear my {thing}",
        "Say which {thing} it was",
    ),
}
_ASK_CODE: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "(How do I write|What do I type|How is) that( again| once more|)",
        "(What|Which) was (it|that|the command)( again| once more|)",
        "(Repeat|Write|Show) (it|that|the command)( please| again| once more|)",
        "Only (the command|what I type)( please|)",
    ),
    "held_out": (
        "Could I see the command again",
        "Say once more what I have to type",
        "Give me just the command",
        "What exactly do I enter",
        "Let me see only what to type",
        "I missed it, how is it written",
        "Please put down what I have to enter",
        "And typed out, what is it",
    ),
}
_ASK_TOPIC: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "What did I (just ask|ask|ask before|want to know)( you|)",
        "(What|Which) was my (last |)question",
        "(Tell me|Do you remember) what I asked( you|)",
    ),
    "held_out": (
        "Please say what I asked you",
        "What was it that I asked",
        "About what did I ask",
        "Say again what my question was",
        "Could you repeat my question",
        "Which thing did I ask about",
        "I forgot my question, what was it",
        "Let me hear what I asked",
    ),
}
_GO_ON: Mapping[Split, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": (
        ("(And|Now) plus {b}", "(And|Now) add {b}( to it| to that|)", "Add {b} more"),
        ("(And|Now) minus {b}", "(And|Now) (take away|subtract) {b}( from it| from that|)"),
    ),
    "held_out": (
        (
            "What if I add {b} to it",
            "Then plus {b}",
            "How much is it with {b} more",
            "Raise it by {b}",
            "And if {b} comes on top",
            "Please increase that by {b}",
        ),
        (
            "Then minus {b}",
            "What if I take {b} away",
            "How much is it with {b} less",
            "Lower it by {b}",
            "And if {b} is taken off",
            "Please reduce that by {b}",
        ),
    ),
}


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
    name = rng.choice([name for name in words("names") if in_split(name, split)])
    tell = user(typed(wording(rng.choice(_TELL_NAME), rng).format(name=name), rng, slips=False))
    told = assistant(f"Nice to meet you, {name}.", f"The user tells me the name {name}.", mode)
    messages = [tell, told] if known else fact_turn(rng.choice(facts.facts()), rng, mode)
    messages += _between(rng, mode)
    index, asked = _said(_ASK_NAME, rng, split)
    if known:
        reply, answer = f"Your name is {name}.", KeyWords((name,))
        thought = f"The user told me the name {name}."
    else:
        reply, answer = "You have not told me your name.", KeyWords(("not told",))
        thought = "The user gave no name yet."
    return _task(f"name/{index}", [*messages, asked], answer, (reply, thought), mode)


def _told(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    while True:
        thing, values, tell = rng.choice(_TOLD)
        value = rng.choice(words(values))
        if in_split(f"my {thing} {value}", split):
            break
    said = f"Your {thing} is {value}."
    messages = [user(tell.format(value=value)), assistant("I see.", f"I note it: {said}", mode)]
    index, asked = _said(_ASK_TOLD, rng, split, thing=thing)
    messages += [*_between(rng, mode), asked]
    return _task(f"told/{index}", messages, KeyWords((value,)), (said, "The user told me."), mode)


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
    index, asked = _said(_ASK_CODE, rng, split)
    reply = (f"`{code}`", f"I said {code}.")
    return _task(f"code/{index}", [*messages, asked], KeyWords((code,)), reply, mode)


def _topic(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    fact, messages = _fact_before(rng, split, mode, facts.of_kind("help"))
    index, asked = _said(_ASK_TOPIC, rng, split)
    reply = (f"You asked {fact.topic}.", f"The user asked {fact.topic}.")
    return _task(f"topic/{index}", [*messages, asked], KeyWords((fact.topic,)), reply, mode)


def _sum(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    first, second = _chain(rng, split)
    question = f"What is {first.a} {first.operation} {first.b}"
    messages = [user(typed(question, rng, slips=False))]
    messages.append(assistant(str(first.result), first.worked(), mode))
    patterns = {split: _GO_ON[split][second.operation == "-"]}
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
