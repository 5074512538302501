"""What `dsv4-chat doctor` tells, while it is written and when it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Report:
    """Facts by subject, and what needs a person, each with what to do."""

    facts: Mapping[str, Any]
    lines: tuple[tuple[str, str], ...]
    """The same for people: subject and text; an empty subject goes on with the one before."""
    problems: tuple[str, ...] = ()


@dataclass
class Page:
    """A report while it is written."""

    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, subject: str, facts: object, *lines: str) -> None:
        """The facts of one subject, and the same as lines for people."""
        self.facts[subject] = facts
        for number, line in enumerate(lines):
            self.lines.append(("" if number else subject, line))
