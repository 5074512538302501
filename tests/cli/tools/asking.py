"""A toolbox in a test: a person who answers as told, and calls as the model makes them."""

import json
from collections.abc import Sequence
from pathlib import Path

from cli.show.surface import Question
from cli.tools.toolbox import Toolbox
from dsv4_mlx.chat.messages import ToolCall


class Person:
    """Gives the same answer to every question, or one after the other; keeps the questions."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[Question] = []
        self._answers: Sequence[str] = answers or ("n",)

    def __call__(self, question: Question) -> str:
        self.asked.append(question)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


def run(box: Toolbox, tool: str, /, **arguments: object) -> str:
    """The result of one call."""
    return box.run(ToolCall(tool, json.dumps(arguments)))


def toolbox(folder: Path, person: Person | None = None, **options: object) -> Toolbox:
    """A toolbox on `folder`; nobody allows anything unless a person is given."""
    return Toolbox(folder, person or Person("n"), **options)  # type: ignore[arg-type]
