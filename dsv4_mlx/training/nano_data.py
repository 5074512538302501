"""The conversations that nano is trained on, made from `nano_help.toml`.

A fact is one answer with many wordings of its question; a conversation is a few facts in a row, so
that one training sequence crosses windows and compressed entries and earlier turns matter. The same
seed gives the same conversations. The file has more than 300 lines because its tables of phrases
stand beside the functions that draw from them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.encoding import Prompt, encode_messages
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, EOS
from dsv4_mlx.files.documents import parse_toml

ELSEWHERE = 0.1  # questions teach the language, so they count a little
GROUP = re.compile(r"\(([^()]*)\)")
QUESTION_WORDS = re.compile(
    r"\b(what|which|who|when|where|why|how|is|are|do|does|did|can|could|may|should|must|will|was|"
    r"were|has|have|by|under|with|in|from|on)\b",
    re.IGNORECASE,
)
# Other ways to ask the same; "{}" is what the pattern's group matched.
FRAMES = (
    (r"How (?:do|can) I (.+)", (
        "How could I {}", "How would I {}", "How should I {}", "What is the way to {}",
        "I want to {}", "I would like to {}", "I need to {}", "Show me how to {}",
        "Tell me how to {}", "Can you tell me how to {}", "Please explain how to {}",
        "Is there a way to {}", "Is it possible to {}", "What must I do to {}",
        "What do I have to type to {}", "What should I type to {}", "How to {}",
        "How does one {}", "How do people {}", "What do I use to {}", "What is needed to {}",
        "With what do I {}", "I have to {}", "Can I {}", "Could I {}", "Help me to {}",
        "I do not know how to {}", "What would I do to {}", "How exactly do I {}",
    )),
    (r"What does (.+) do", (
        "What is {} for", "What is the effect of {}", "Tell me what {} does", "Explain {}",
        "What is {} good for", "What happens with {}", "Why would I use {}", "What about {}",
        "Describe {}", "What is the meaning of {}", "What is the use of {}", "{}",
    )),
    (r"What is (.+)", (
        "What exactly is {}", "What's {}", "Tell me what {} is", "Can you tell me what {} is",
        "I do not know what {} is", "I want to know what {} is", "Do you know what {} is",
        "What do you mean by {}", "Could you tell me what {} is", "And what is {}",
        "What would {} be", "I would like to know what {} is", "Please say what {} is",
    )),
    (r"What are (.+)", (
        "What exactly are {}", "Tell me what {} are", "Can you tell me what {} are",
        "I do not know what {} are", "Please say what {} are", "And what are {}",
    )),
    (r"(?:Explain|Describe) (.+?)(?: to me| shortly)?", (
        "Could you explain {}", "Can you explain {}", "Please explain {}", "Please describe {}",
        "Can you describe {}", "I want to understand {}", "Help me understand {}",
        "Say something about {}", "I do not understand {}", "Give me a description of {}",
        "Teach me about {}", "What can you tell me about {}", "Would you explain {}",
    )),
    (r"(?:May|Can) I (.+)", (
        "Am I allowed to {}", "Is it okay to {}", "Is it possible to {}", "Could I {}",
        "Is one allowed to {}", "I want to {}", "Am I able to {}", "Is it allowed to {}",
    )),
    (r"(?:Must|Should|Do) I (?:have to |need to )?(.+)", (
        "Is it necessary to {}", "Must one {}", "Am I forced to {}", "Do we have to {}",
        "Is there a need to {}", "Would I have to {}",
    )),
    (r"How (big|large|long|fast) (is|are) (.+)", (
        "Tell me how {0} {2} {1}", "Do you know how {0} {2} {1}", "I wonder how {0} {2} {1}",
        "How {0} exactly {1} {2}", "Can you tell me how {0} {2} {1}",
    )),
    (r"How (much|many) (.+)", (
        "Tell me how {} {}", "Do you know how {} {}", "About how {} {}", "And how {} {}",
        "Exactly how {} {}", "I wonder how {} {}",
    )),
    (r"Where (?:do|can) I (.+)", (
        "Tell me where to {}", "From where can I {}", "Do you know where I can {}",
        "Is there a place to {}", "In which place do I {}", "Where should I {}",
    )),
    (r"Where (is|are) (.+)", (
        "Tell me where {1} {0}", "Do you know where {1} {0}", "In what place {0} {1}",
        "Where exactly {0} {1}", "I am looking for {1}", "Where do I find {1}",
    )),
    (r"(?:Which|What) command (.+)", (
        "What is the command that {}", "Tell me the command that {}", "Name the command that {}",
        "Is there a command that {}", "Which instruction {}", "I need the command that {}",
        "What do I type that {}", "Do you know the command that {}", "Which program {}",
    )),
    (r"(?:Which|What) option (.+)", (
        "What is the option that {}", "Is there an option that {}", "Which flag {}",
        "Which switch {}", "Tell me the option that {}", "Which argument {}",
        "Do you know which option {}", "Which parameter {}",
    )),
    (r"(?:Which|What) (\w+s) (are there|can I use|exist)(.*)", (
        "List the {0}{2}", "Tell me the {0}{2}", "Name all {0}{2}", "Show me the {0}{2}",
        "I want to see the {0}{2}", "What {0} do I have{2}", "From which {0} can I choose{2}",
    )),
)  # fmt: skip
OPENINGS = ("Please: ", "Hi, ", "Hello, ", "nano, ", "So, ", "And ", "One question: ", "Okay, ",
            "Excuse me, ", "Tell me, ", "Well, ", "Hey nano, ")  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One answer; `questions` are patterns, `held_out` plain wordings kept for the evaluation."""

    id: str
    topic: str
    questions: tuple[str, ...]
    answer: str
    held_out: tuple[str, ...]
    keys: tuple[str, ...]
    copies: int  # how often it is asked, compared with the others

    def answered_by(self, text: str) -> bool:
        """Whether every key word of this fact is in `text`, in any case."""
        return all(key.lower() in text.lower() for key in self.keys)


@dataclass(frozen=True)
class TaughtTurn:
    question: str
    reasoning: str
    answer: str


@lru_cache(maxsize=1)
def source() -> dict[str, Any]:
    """The parsed `nano_help.toml`."""
    return parse_toml(resources.files(__package__).joinpath("nano_help.toml").read_bytes())


@lru_cache(maxsize=1)
def facts() -> tuple[Fact, ...]:
    """Every fact, the off-topic refusal last."""
    tables = [*source()["fact"], {"id": "off_topic", **source()["off_topic"]}]
    return tuple(
        Fact(
            id=table["id"],
            topic=table["topic"],
            questions=tuple(table["questions"]),
            answer=table["answer"],
            held_out=tuple(table["held_out"]),
            keys=tuple(table["keys"]),
            copies=table.get("copies", 1),
        )
        for table in tables
    )


def wording(pattern: str, rng: random.Random) -> str:
    """One wording of a pattern, chosen evenly in every group."""
    text = GROUP.sub(lambda group: rng.choice(group[1].split("|")), pattern)
    return " ".join(text.split())


def said(text: str, rng: random.Random) -> str:
    """The wording as a person may type it: case, punctuation, an opening, a slip of the fingers."""
    if rng.random() < 0.45:
        other = reframed(text, rng)
        text = text if is_held_out(other) else other
    if rng.random() < 0.15:
        opening = rng.choice(OPENINGS)
        text = opening + (text if text[:2] in ("I ", "V4") else text[0].lower() + text[1:])
    if rng.random() < 0.06:
        text = slip(text, rng)
    asks = QUESTION_WORDS.search(" ".join(text.split()[:3])) is not None
    text += rng.choices(("?", "", "."), (6, 3, 0) if asks else (0, 6, 4))[0]
    return text.lower() if rng.random() < 0.2 else text


def reframed(text: str, rng: random.Random) -> str:
    """The question `text` in another frame where one of `FRAMES` fits, else `text` itself."""
    for pattern, frames in FRAMES:
        match = re.fullmatch(pattern, text)
        if match:
            return rng.choice(frames).format(*match.groups())
    return text


def is_held_out(text: str) -> bool:
    """Whether the wording, however it is written, belongs to the evaluation."""
    return _plain(text) in _held_out_wordings()


@lru_cache(maxsize=1)
def _held_out_wordings() -> frozenset[str]:
    return frozenset(_plain(text) for fact in facts() for text in fact.held_out)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w/-]+", text.lower()))


def slip(text: str, rng: random.Random) -> str:
    """The text with two neighbouring letters swapped or one letter dropped."""
    places = [i for i in range(1, len(text) - 2) if text[i : i + 2].isalpha()]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + rng.choice((text[i + 1] + text[i], text[i + 1])) + text[i + 2 :]


def fact_turn(fact: Fact, rng: random.Random) -> TaughtTurn:
    question = said(wording(rng.choice(fact.questions), rng), rng)
    # Naming the topic is all the reasoning so small a model is good for.
    return TaughtTurn(question, f"The user asks {fact.topic}.", fact.answer)


def memory_turn(name: str | None, rng: random.Random) -> tuple[TaughtTurn, str | None]:
    """A turn of the name task and the name that is known after it."""
    table = source()["memory"]
    if rng.random() < (0.45 if name is None else 0.15):
        name = rng.choice(table["names"])
        question = said(wording(rng.choice(table["tell"]), rng).format(name=name), rng)
        told = table["told"].format(name=name)
        return TaughtTurn(question, f"The user tells me the name {name}.", told), name
    question = said(wording(rng.choice(table["ask"]), rng), rng)
    answer = table["known"].format(name=name) if name else table["unknown"]
    thought = f"The user told me the name {name}." if name else "The user gave no name yet."
    return TaughtTurn(question, thought, answer), name


class Deck:
    """Facts in random order, each `copies` times before any comes again."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.cards = [fact for fact in facts() for _ in range(fact.copies)]
        self.pile: list[Fact] = []

    def draw(self) -> Fact:
        if not self.pile:
            self.pile = self.rng.sample(self.cards, len(self.cards))
        return self.pile.pop()


def turns(deck: Deck, count: int) -> list[TaughtTurn]:
    """`count` turns of one conversation; about one conversation in six plays the name task."""
    rng, result, name = deck.rng, [], None
    with_names = rng.random() < 0.16
    for _ in range(count):
        if with_names and rng.random() < 0.5:
            turn, name = memory_turn(name, rng)
        else:
            turn = fact_turn(deck.draw(), rng)
        result.append(turn)
    return result


def conversation(deck: Deck, count: int) -> Prompt:
    """A rendered conversation of `count` turns; more than half of them think."""
    rng = deck.rng
    mode: ThinkingMode = "thinking" if rng.random() < 0.6 else "chat"
    messages = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(source()["systems"]["prompts"])})
    for turn in turns(deck, count):
        messages.append({"role": "user", "content": turn.question})
        reply = {"role": "assistant", "content": turn.answer}
        if mode == "thinking":
            reply["reasoning_content"] = turn.reasoning
        messages.append(reply)
    return encode_messages(
        messages,
        thinking_mode=mode,
        reasoning_effort="max" if rng.random() < 0.05 else None,
        # A chat drops the reasoning of earlier turns; kept, every turn teaches it.
        drop_thinking=rng.random() < 0.4,
    )


def corpus(seed: int, conversations: int = 2500) -> list[str]:
    """Text for the tokenizer, as the conversations have it."""
    deck = Deck(random.Random(seed))
    prompts = [conversation(deck, 5) for _ in range(conversations)]
    return [text for prompt in prompts for text, is_control in prompt.segments if not is_control]


@dataclass(frozen=True)
class Batch:
    """Token ids [B, S + 2] and what each is worth as a target, float32 [B, S + 2]."""

    tokens: np.ndarray
    weights: np.ndarray


def batch(tokenizer: Tokenizer, seed: int, step: int, rows: int, length: int) -> Batch:
    """The batch of one step: rows of whole conversations, the last one cut at `length` + 2."""
    rng = random.Random(f"{seed}/{step}")
    deck = Deck(rng)
    tokens = np.array([_row(tokenizer, deck, length + 2) for _ in range(rows)], np.int32)
    return Batch(tokens, target_weights(tokenizer, tokens))


def _row(tokenizer: Tokenizer, deck: Deck, length: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < length:
        ids += tokenizer.encode(conversation(deck, deck.rng.randint(1, 7)))
    return ids[:length]


def target_weights(tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
    """1 for what the assistant says up to EOS, `ELSEWHERE` for the rest: [B, n] -> [B, n].

    The `<think>` or `</think>` right after the assistant's token belongs to the prompt.
    """
    control = tokenizer.control_ids
    weights = np.full(tokens.shape, ELSEWHERE, np.float32)
    for row, target in zip(tokens, weights, strict=True):
        speaking = -1  # position where the assistant took over, -1 while it is silent
        for i, token in enumerate(row):
            if speaking >= 0 and i > speaking + 1:
                target[i] = 1.0
            if token == control[ASSISTANT]:
                speaking = i
            elif token == control[EOS]:
                speaking = -1
    return weights


def held_out() -> list[tuple[Fact, str]]:
    """Every held-out wording with its fact, as questions with a question mark."""
    return [(fact, f"{text}?") for fact in facts() for text in fact.held_out]
