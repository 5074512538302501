"""Addition and subtraction of numbers with one to three digits.

In thinking mode every column is worked out aloud, ones first, with what is carried or borrowed; in
chat mode the number comes bare. Held out are one pair of operands in ten and wordings of their own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data.judging import ExactNumber
from dsv4_mlx.training.data.task import Split, Task, assistant, in_split, user
from dsv4_mlx.training.data.wordings import typed, wording
from dsv4_mlx.training.data.words import words

Operation = Literal["+", "-"]

_THINGS = "apples|books|coins|stones|cards|stamps|tickets|eggs|cups|shells"
_WORDINGS: dict[Split, dict[Operation, tuple[str, ...]]] = {
    "train": {
        "+": (
            "(What is|How much is|What's|Calculate|Compute|Work out|Solve|) {a} + {b}",
            "(What is|How much is|What's|Calculate|Compute|) {a} plus {b}",
            "(What is|Give me|Tell me|Find) the sum of {a} and {b}",
            "(Add|Please add|Sum up) {a} and {b}",
            "(Can you|Could you) (add|sum up) {a} and {b}( please|)",
            "(What|How much) do {a} and {b} make( together| in all|)",
            f"I have {{a}} ({_THINGS}) and get {{b}} more, how many (are there|do I have)( now|)",
            "{a} and {b} together",
        ),
        "-": (
            "(What is|How much is|What's|Calculate|Compute|Work out|Solve|) {a} - {b}",
            "(What is|How much is|What's|Calculate|Compute|) {a} minus {b}",
            "(What is|Give me|Tell me|Find) the difference of {a} and {b}",
            "(Subtract|Please subtract|Take) {b} from {a}",
            "(Can you|Could you) subtract {b} from {a}( please|)",
            "(What|How much) is left of {a} without {b}",
            f"I have {{a}} ({_THINGS}) and lose {{b}}, how many (are left|do I have)( now|)",
            "{a} less {b}",
        ),
    },
    "held_out": {
        "+": (
            "Tell me what {a} + {b} is",
            "Please calculate {a} plus {b}",
            "Do you know the sum of {a} and {b}",
            "What is the result of {a} + {b}",
            "I want to add {a} and {b}",
        ),
        "-": (
            "Tell me what {a} - {b} is",
            "Please calculate {a} minus {b}",
            "Do you know the difference of {a} and {b}",
            "What is the result of {a} - {b}",
            "I want to subtract {b} from {a}",
        ),
    },
}
_ONES = words("numbers")
_TENS = words("tens")
_IN_WORDS = 0.15  # share of sums below 100 that are asked in words


@dataclass(frozen=True)
class Sum:
    """`a + b` or `a - b`; a difference is never negative."""

    a: int
    operation: Operation
    b: int

    @property
    def result(self) -> int:
        return self.a + self.b if self.operation == "+" else self.a - self.b

    @property
    def digits(self) -> int:
        return len(str(max(self.a, self.b)))

    @property
    def pair(self) -> str:
        """The two operands, smaller first: what is held out."""
        return f"{min(self.a, self.b)} {max(self.a, self.b)}"

    @property
    def carries(self) -> int:
        """Columns that carry or borrow."""
        return sum(moved for _, moved in self._columns())

    def worked(self) -> str:
        """The reasoning, ones first: `8+6=14 carry 1, 4+7+1=12 carry 1, 3+2+1=6, so 624`."""
        verb = "carry" if self.operation == "+" else "borrow"
        columns = [text + (f" {verb} 1" if moved else "") for text, moved in self._columns()]
        return f"{self.a}{self.operation}{self.b}: {', '.join(columns)}, so {self.result}"

    def _columns(self) -> list[tuple[str, int]]:
        """Every column as it is worked out, with what it hands on to the next one (0 or 1)."""
        columns, moved = [], 0
        for place in range(self.digits):
            x, y = (number // 10**place % 10 for number in (self.a, self.b))
            extra = f"{self.operation}{moved}" if moved else ""
            if self.operation == "+":
                value, last = x + y + moved, place == self.digits - 1
                moved = int(value > 9 and not last)
            else:
                value = x - y - moved
                moved = int(value < 0)
                x, value = x + 10 * moved, value + 10 * moved
            columns.append((f"{x}{self.operation}{y}{extra}={value}", moved))
        return columns


def drawn_sum(rng: random.Random, split: Split) -> Sum:
    """A sum of the split; the evaluation has two and three digits alone."""
    while True:
        digits = rng.choices((1, 2, 3), (1, 4, 5) if split == "train" else (0, 1, 1))[0]
        low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
        a = rng.randint(low, high)
        # Some have operands of different lengths, such as 345 - 27.
        b = rng.randint(0 if rng.random() < 0.2 else low, high)
        operation: Operation = "+" if rng.random() < 0.5 else "-"
        found = Sum(max(a, b), "-", min(a, b)) if operation == "-" else Sum(a, "+", b)
        if digits == 1 or in_split(found.pair, split):
            return found


def arithmetic_task(rng: random.Random, split: Split, mode: ThinkingMode) -> Task:
    asked = drawn_sum(rng, split)
    patterns = _WORDINGS[split][asked.operation]
    index = rng.randrange(len(patterns))
    in_words = asked.digits < 3 and rng.random() < _IN_WORDS
    a, b = (in_english(n) if in_words else str(n) for n in (asked.a, asked.b))
    question = wording(patterns[index], rng).format(a=a, b=b)
    return Task(
        kind="arithmetic",
        template=f"{split}{asked.operation}{index}{'w' if in_words else ''}",
        messages=(user(typed(question, rng, slips=False)),),
        thinking_mode=mode,
        answer=ExactNumber(asked.result),
        reply=assistant(str(asked.result), asked.worked(), mode),
        traits={"digits": asked.digits, "carries": asked.carries, "operation": asked.operation},
    )


def in_english(number: int) -> str:
    """A number below 100 in words."""
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")
