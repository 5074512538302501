"""Asking before a tool does something that a person may not want, showing exactly what it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.safe import exact
from cli.show.surface import Question
from cli.tools.tool import ToolError

Ask = Callable[[Question], str]

DETAIL_LINES = 60
"""Lines shown at first; one of the choices shows the rest."""


@dataclass(frozen=True)
class Action:
    """One thing that needs a yes."""

    question: str
    details: tuple[str, ...]
    """Lines that show exactly what would happen."""
    always: str
    """What "always" would allow, in words."""
    scope: tuple[str, ...]
    """What it would allow, as a key: other actions with the same one are not asked about again."""


class Approvals:
    """Asks with `ask`, and remembers what is always allowed as long as the conversation lasts."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._always: set[tuple[str, ...]] = set()

    def require(self, action: Action) -> None:
        """Return when `action` is allowed; ToolError when it is not."""
        if action.scope in self._always:
            return
        answer = self._answer(action)
        if answer == "a":
            self._always.add(action.scope)
        elif answer != "y":
            raise ToolError("The user did not allow this.")

    def forget(self) -> None:
        """Drop what was always allowed: another conversation begins."""
        self._always.clear()

    def _answer(self, action: Action) -> str:
        lines = tuple(exact(line.expandtabs(4)) for line in action.details)
        choices = (
            ("y", "yes"),
            ("n", "no"),
            ("a", f"always in this conversation: {action.always}"),
        )
        if len(lines) > DETAIL_LINES:
            hidden = len(lines) - DETAIL_LINES
            shown = (*lines[:DETAIL_LINES], f"[{hidden:,} more lines; f shows them]")
            question = Question(action.question, shown, (*choices, ("f", "show in full")))
            answer = self._ask(question)
            if answer != "f":
                return answer
        return self._ask(Question(action.question, lines, choices))


def quoted_lines(text: str, mark: str) -> Sequence[str]:
    """The lines of `text`, each after `mark`, so that none can pass for a line of ours."""
    return [mark + line for line in text.split("\n")]
