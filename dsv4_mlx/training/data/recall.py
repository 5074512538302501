"""Recall: facts planted in a long text, one of them asked for at its end.

The text is made of sentences drawn word by word, so that none is repeated on purpose and nothing in
it helps. A text holds several facts of one form, so the one that is asked for has to be found by
its key. Held out are one pair of key and value in ten and wordings of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data.judging import Answer, ExactNumber, KeyWords, OneOf
from dsv4_mlx.training.data.task import MessageDict, Split, Task, assistant, in_split, user
from dsv4_mlx.training.data.wordings import wording
from dsv4_mlx.training.data.words import lesson_word, words

LENGTHS = (256, 512, 1024, 2048)
"""Tokens of a lesson's prompt, about."""

TOKENS_PER_WORD = 1.0
"""With a vocabulary of 2,048 that is made from this data; full stops are words here."""

_FORMS: tuple[tuple[str, str], ...] = (
    ("{key} keeps the {value}.", "What does {key} keep"),
    ("The word of {key} is {value}.", "What is the word of {key}"),
    ("The number of {key} is {value}.", "What is the number of {key}"),
    ("{key} lives at number {value}.", "At which number does {key} live"),
    ("{key} {value}.", "What is the entry of {key}"),
    ("{key} number {value}.", "What is the number of {key}"),
)
_IN_TEXTS = 4  # forms that texts have; after them those of lists, for drills alone
_LISTS = 0.7  # share of drills that are lists, in which a key stands right before its value
_ASKED: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "{asked}",
        "(Now|So|Question:|And now:) {asked}",
        "(According to|By|From) the text: {asked}",
        "(The question is|My question|Answer this): {asked}",
    ),
    "held_out": (
        "After reading, tell me: {asked}",
        "One thing from above: {asked}",
        "Look it up above: {asked}",
    ),
}
_RECITE = (
    "(Say|Write|Give|Repeat) what the text says (of|about) {keys}",
    "(What does it say|What stands there|What is written) (of|about) {keys}?",
    "(Recall|List|Tell me): {keys}",
)
_RECITE_ALL = (
    "(Say|Write|Give|Repeat) all of it in (another|any) order",
    "(Recall|List|Tell me) everything, (mixed|shuffled|in no order)",
    "What does it say, in (another|any) order?",
)
_KEYS_ASKED = 0.3  # share of recitals whose keys are asked for: those stand twice before the answer
_MOST_MORE = 3  # questions of a lesson after its first
_DRILLED = (4, 10)  # facts of a drill
_MOST_RECITALS = 3
_DRILL_FILLER = (0, 0, 0.1, 0.25, 0.5)  # text after them, of the most tokens there may be
_FRAME_WORDS = 24  # of the prompt around the text
_NEAREST = 170  # words between a held-out fact and the question: the window of 128 is past it


@dataclass(frozen=True)
class PlantedFact:
    """A key and its value in one of the forms."""

    key: str
    value: str
    form: int

    @property
    def sentence(self) -> str:
        return _FORMS[self.form][0].format(key=self.key, value=self.value)

    @property
    def question(self) -> str:
        return _FORMS[self.form][1].format(key=self.key)

    @property
    def answer(self) -> Answer:
        if self.value.isdigit():
            return ExactNumber(int(self.value))
        return OneOf(self.value, frozenset((self.value, *words("treasures"))))


def sentence(rng: random.Random) -> str:
    """One sentence of filler, 8 to 14 words."""
    pick = {name: (lambda name=name: rng.choice(words(name))) for name in _DRAWN}
    place = f"the {pick['adjectives']()} {pick['nouns']()}"
    other = f"the {pick['nouns']()} {pick['joints']()} the {pick['adjectives']()} {pick['nouns']()}"
    who = f"the {pick['people']()}"
    form = rng.randrange(4)
    if form == 0:
        text = f"{who} {pick['verbs']()} {place} and {pick['verbs']()} {other}"
    elif form == 1:
        text = f"{pick['times']()} {who} {pick['verbs']()} {other}"
    elif form == 2:
        text = f"{other} was {pick['adjectives']()} and {pick['times']()} {pick['adjectives']()}"
    else:
        text = f"{pick['joints']()} {place} {who} {pick['verbs']()} {other} {pick['times']()}"
    return f"{text[0].upper()}{text[1:]}."


_DRAWN = ("adjectives", "nouns", "people", "verbs", "joints", "times")


def filler(rng: random.Random, count: int) -> list[str]:
    """Sentences with at most `count` words, full stops counted."""
    sentences: list[str] = []
    while True:
        text = sentence(rng)
        count -= text.count(" ") + 2
        if count < 0:
            return sentences
        sentences.append(text)


def planted_facts(
    rng: random.Random, split: Split, count: int, *, form: int | None = None
) -> list[PlantedFact]:
    """Facts of one form with different keys and values; the first is of the split.

    The others are always of the training, so that no lesson has a held-out pair.
    """
    form = rng.randrange(_IN_TEXTS) if form is None else form
    numbers = "number" in _FORMS[form][0]
    values = [str(number) for number in range(10, 1000)] if numbers else words("treasures")
    found: list[PlantedFact] = []
    while len(found) < count:
        key, value = rng.choice(words("keepers")), rng.choice(values)
        if split == "train" and not numbers:
            value = lesson_word(rng, values)
        used = any(key == fact.key or value == fact.value for fact in found)
        if not used and in_split(f"{key} {value}", "train" if found else split):
            found.append(PlantedFact(key, value, form))
    return found


def recall_task(
    rng: random.Random, split: Split, mode: ThinkingMode, length: int | None = None
) -> Task:
    """A text of about `length` tokens and a question about one fact in it.

    Held-out facts stand further back than the window reaches, where the text is long enough.
    """
    length = length or rng.choice(LENGTHS)
    count = max(20, int(length / TOKENS_PER_WORD) - _FRAME_WORDS)
    facts = planted_facts(rng, split, min(6, 3 + count // 200))
    text = filler(rng, count - 7 * len(facts))
    last = len(text)
    if split == "held_out":
        last = max(1, last - _NEAREST // 12)
    place = rng.randint(0, last)
    text.insert(place, facts[0].sentence)
    for other in facts[1:]:
        text.insert(rng.randint(0, len(text)), other.sentence)
    index, question = _asked(rng, split, facts[0])
    # A lesson goes on to the other facts: a long text for one answer would teach little.
    others = facts[1 : 1 + _MOST_MORE] if split == "train" else []
    return Task(
        kind="recall",
        template=f"{split}{facts[0].form}/{index}",
        messages=(user(f"{' '.join(text)}\n\n{question}"),),
        thinking_mode=mode,
        answer=facts[0].answer,
        reply=_said(facts[0], mode),
        after=_further(rng, split, others, mode),
        copied=tuple(fact.value for fact in facts),
        traits={"length": length, "depth": f"{place / max(1, len(text)):.2f}"},
    )


def recall_drill(rng: random.Random, mode: ThinkingMode, limit: int = 256) -> Task:
    """A lesson of many facts, often with text after them, which are all said again in another
    order: where recall begins.

    In long texts there is a question in hundreds of tokens, too few for a small model to find out
    that answers stand in the text. Text pushes facts out of the window, to where entries alone see
    them.
    """
    is_list = rng.random() < _LISTS
    form = rng.randrange(_IN_TEXTS, len(_FORMS)) if is_list else None
    facts = planted_facts(rng, "train", rng.randint(*_DRILLED), form=form)
    words_between = int(rng.choice(_DRILL_FILLER) * limit)
    text = " ".join([fact.sentence for fact in facts] + filler(rng, words_between))
    said, turns = [], []
    for _ in range(rng.randint(1, _MOST_RECITALS)):
        is_asked = rng.random() < _KEYS_ASKED
        asked = rng.sample(facts, rng.randint(2, len(facts)) if is_asked else len(facts))
        keys = ", ".join(fact.key for fact in asked)
        turns.append(
            wording(rng.choice(_RECITE if is_asked else _RECITE_ALL), rng).format(keys=keys)
        )
        thought = f"I look for {keys}." if is_asked else "I say all of it."
        said.append(
            assistant(
                " ".join(["The text says:", *(fact.sentence for fact in asked)]), thought, mode
            )
        )
    return Task(
        kind="recall",
        template=f"drill{facts[0].form}",
        messages=(user(f"{text}\n\n{turns[0]}"),),
        thinking_mode=mode,
        answer=KeyWords(tuple(fact.value for fact in facts if fact.sentence in said[0]["content"])),
        reply=said[0],
        after=tuple(
            message
            for question, reply in zip(turns[1:], said[1:], strict=True)
            for message in (user(question), reply)
        ),
        copied=tuple(fact.value for fact in facts),
        traits={"facts": len(facts), "form": "list" if is_list else "text"},
    )


def _further(
    rng: random.Random, split: Split, facts: Sequence[PlantedFact], mode: ThinkingMode
) -> tuple[MessageDict, ...]:
    """A question and an answer about each of the facts."""
    return tuple(
        message
        for fact in facts
        for message in (user(_asked(rng, split, fact)[1]), _said(fact, mode))
    )


def _asked(rng: random.Random, split: Split, fact: PlantedFact) -> tuple[int, str]:
    """The number of a wording, and the question in it."""
    index = rng.randrange(len(_ASKED[split]))
    return index, wording(_ASKED[split][index], rng).format(asked=fact.question) + "?"


def _said(fact: PlantedFact, mode: ThinkingMode) -> MessageDict:
    """The answer, the sentence of the text: the key is said before what it is to find."""
    return assistant(f"The text says: {fact.sentence}", f"I look for {fact.key}.", mode)
