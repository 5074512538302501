"""What nano knows about the program and itself: one answer with many wordings of its question.

`help.toml` has the facts, `program.toml` the commands and options without a fact of their own, and
names that the program does not have stand for commands newer than the data: their answer is /help.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from dsv4_mlx.files.documents import parse_toml
from dsv4_mlx.training.data.frames import reframed
from dsv4_mlx.training.data.judging import KeyWords
from dsv4_mlx.training.data.task import Split, in_split
from dsv4_mlx.training.data.wordings import plain, typed, wording
from dsv4_mlx.training.data.words import words

FactKind = Literal["help", "talk"]

_REFRAMED = 0.45  # share of questions that are asked in another frame where one fits
_MADE_UP = re.compile(r"\{made\}")


@dataclass(frozen=True)
class Fact:
    """One answer; `questions` are patterns, `held_out` plain wordings kept for the evaluation."""

    id: str
    kind: FactKind
    topic: str
    questions: tuple[str, ...]
    answer: str
    held_out: tuple[str, ...]
    keys: tuple[str, ...]
    copies: int  # how often it is asked, compared with the others

    @property
    def judge(self) -> KeyWords:
        """The answer has every key word."""
        return KeyWords(self.keys)

    def answered_by(self, text: str) -> bool:
        """Whether every key word of this fact is in `text`, in any case."""
        return self.judge.accepts({"content": text})

    @property
    def reasoning(self) -> str:
        # Naming the topic is all the reasoning so small a model is good for.
        return f"The user asks {self.topic}."


@lru_cache(maxsize=1)
def source() -> dict[str, Any]:
    """The parsed `help.toml`."""
    return _parsed("help.toml")


def _parsed(name: str) -> dict[str, Any]:
    return parse_toml(resources.files(__package__).joinpath(name).read_bytes())


@lru_cache(maxsize=1)
def facts() -> tuple[Fact, ...]:
    """Every fact: those of help.toml, then commands and options."""
    return (*written_facts(), *_of_program(), *_newer())


@lru_cache(maxsize=1)
def written_facts() -> tuple[Fact, ...]:
    """The facts of help.toml, the off-topic refusal last; nano was first measured with these."""
    tables = [*source()["fact"], {"id": "off_topic", **source()["off_topic"]}]
    return tuple(map(_written, tables))


def _written(table: Mapping[str, Any]) -> Fact:
    return Fact(
        id=table["id"],
        kind=table.get("kind", "help"),
        topic=table["topic"],
        questions=tuple(table["questions"]),
        answer=table["answer"],
        held_out=tuple(table["held_out"]),
        keys=tuple(table["keys"]),
        copies=table.get("copies", 1),
    )


@lru_cache(maxsize=1)
def program_entries() -> dict[str, list[dict[str, str]]]:
    """The tables `command`, `option` and `converter` of `program.toml`."""
    return _parsed("program.toml")


def _of_program() -> list[Fact]:
    return [_entry(entry) for group in program_entries().values() for entry in group]


def _entry(entry: Mapping[str, str]) -> Fact:
    name, usage, does = entry["name"], entry["usage"], entry["does"]
    return Fact(
        id=name,
        kind="help",
        topic=f"how to {does}",
        questions=(
            f"What does {name} do( here| exactly|)",
            f"What is {name}( for| good for|)",
            f"(Explain|Describe) {name}( to me|)",
            f"How (do|can) I {does}( here|)",
            f"(Which|What) (words|characters) do I need to {does}",
            f"(What do|What must) I type to {does}",
        ),
        answer=f"Type `{usage}` to {does}.",
        held_out=(f"What about {name} then", f"I wish to {does}"),
        keys=(name,),
        copies=1,
    )


def _newer() -> list[Fact]:
    """Names that no version of the program has; they are drawn where `{made}` stands."""
    command = Fact(
        id="newer_command",
        kind="help",
        topic="about a command I do not know",
        questions=(
            "What does /{made} do( here|)",
            "What is /{made}( for|)",
            "(Explain|Describe) /{made}( to me|)",
            "How do I use /{made}( here|)",
            "Is there a command /{made}",
        ),
        answer="I do not know that command; `/help` lists them all.",
        held_out=("What about /{made} then", "How does one type /{made}"),
        keys=("/help",),
        copies=4,
    )
    option = Fact(
        id="newer_option",
        kind="help",
        topic="about an option I do not know",
        questions=(
            "What does --{made} do( here|)",
            "What is --{made}( for|)",
            "(Explain|Describe) --{made}( to me|)",
            "Is there an option --{made}",
            "(Which|What) is the option --{made}",
        ),
        answer="I do not know that option; `dsv4-chat --help` lists them all.",
        held_out=("What about --{made} then",),
        keys=("--help",),
        copies=3,
    )
    return [command, option]


def made_up(rng: random.Random, split: Split) -> str:
    """A name of the split that no command or option has."""
    known = {fact.id.lstrip("-/") for fact in facts()}
    while True:
        name = "-".join(rng.sample(words("made_up"), rng.randint(1, 2)))
        if name not in known and in_split(name, split):
            return name


def question(fact: Fact, rng: random.Random) -> str:
    """A wording of the fact for a lesson, as a person may type it; never a held-out one."""
    text = wording(rng.choice(fact.questions), rng)
    if rng.random() < _REFRAMED and not _MADE_UP.search(text):
        other = reframed(text, rng)
        text = text if is_held_out(other) else other
    return typed(_named(text, rng, "train"), rng)


def _named(text: str, rng: random.Random, split: Split) -> str:
    return _MADE_UP.sub(lambda _: made_up(rng, split), text)


def held_out(chosen: Sequence[Fact] | None = None) -> list[tuple[Fact, str]]:
    """Every held-out wording of the facts with its fact, as questions with a question mark."""
    rng = random.Random(0)
    return [
        (fact, f"{_named(text, rng, 'held_out')}?")
        for fact in (facts() if chosen is None else chosen)
        for text in fact.held_out
    ]


def of_kind(kind: FactKind) -> list[Fact]:
    return [fact for fact in facts() if fact.kind == kind]


def is_held_out(text: str) -> bool:
    """Whether the wording, however it is written, belongs to the evaluation."""
    return plain(text) in _held_out_wordings()


@lru_cache(maxsize=1)
def _held_out_wordings() -> frozenset[str]:
    return frozenset(plain(text) for fact in facts() for text in fact.held_out)


class Deck:
    """Cards in random order, all of them before any comes again."""

    def __init__(self, rng: random.Random, cards: Sequence[Any]) -> None:
        self._rng = rng
        self._cards = cards
        self._pile: list[Any] = []

    def draw(self) -> Any:
        if not self._pile:
            self._pile = self._rng.sample(self._cards, len(self._cards))
        return self._pile.pop()


def fact_deck(rng: random.Random, chosen: Sequence[Fact] | None = None) -> Deck:
    """Facts, each `copies` times."""
    chosen = facts() if chosen is None else chosen
    return Deck(rng, [fact for fact in chosen for _ in range(fact.copies)])
