"""What the controller, the views and the two surfaces agree on.

A surface is where a conversation is typed and shown: a terminal that redraws its bottom lines, or
plain lines. The controller runs on its own thread and calls a surface from there, so every method
may be called from any thread.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from dsv4_mlx.chat.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

Result = TypeVar("Result")
Count = Callable[[str], int]
"""How many tokens a text is."""


class Verbatim(str):
    """A submitted text that is a message whatever it begins with: pasted, or between quotes."""


@dataclass(frozen=True)
class Status:
    """What the status line tells; None is not known yet and is left out."""

    model: str
    mode: str
    """The thinking level."""
    backend: str | None = None
    wired_bytes: int = 0
    """What stays resident in memory for the model."""
    used_tokens: int | None = None
    context_tokens: int | None = None
    window_bytes: int = 0
    compressed_bytes: int = 0
    index_bytes: int = 0
    tokens_per_s: float | None = None
    tokens_per_pass: float | None = None
    """How many tokens a call of the model gave, where something drafts."""
    expert_hits: float | None = None
    """The share of experts that the last reply found in memory, where others are in files."""
    waited_s: float = 0.0
    """Seconds that it waited for these files."""
    first_token_s: float | None = None
    busy: str = ""
    """What is being done now, empty when the prompt waits."""


@dataclass(frozen=True)
class Question:
    """Something to decide before going on; `choices` maps a key to what it means."""

    text: str
    details: tuple[str, ...] = ()
    """Lines that show exactly what would happen."""
    choices: tuple[tuple[str, str], ...] = (("y", "yes"), ("n", "no"))
    default: str = "n"
    """The answer when the person leaves or input ends."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Hooks:
    """What a surface calls while it runs, on the thread that draws where none is named."""

    interrupt: Callable[[], None] = _nothing
    """For Ctrl-C while busy, also from signal handlers; it stops the answer."""
    next_level: Callable[[], None] = _nothing
    """For Shift-Tab."""
    unfold: Callable[[], None] = _nothing
    """For Ctrl-O."""
    arguments: Callable[[str, str], Sequence[str]] = lambda command, typed: ()
    """(command, what is typed of its argument) -> whole arguments that could be meant; on a thread
    of its own."""
    conversation: Callable[[], str] = str
    """The id of the open conversation, "" for a new one; on the thread that keeps drafts."""


NO_HOOKS = Hooks()


class Surface(Protocol):
    """Where a conversation is typed and shown."""

    @property
    def width(self) -> int:
        """Columns now."""
        ...

    def run(self, controller: Callable[[], Result], hooks: Hooks = NO_HOOKS) -> Result:
        """Call `controller` and return or raise what it does; for the main thread. `hooks` are
        called meanwhile.

        A terminal draws on the calling thread meanwhile and calls `controller` on another one;
        plain lines need no second thread. The terminal is as it was when this ends, however.
        """
        ...

    def submissions(self) -> Iterator[str]:
        """What the person sends, one text at a time; ends with Ctrl-D or a lost terminal.

        What was typed and may be a command is a plain string, all else `Verbatim`; in either an @
        that names no file by its meaning has a backslash before it.
        """
        ...

    def show(self, renderable: "RenderableType") -> None:
        """Print once, above the input, for good.

        Where it takes the place of live lines, show it first and call `live` next: both changes
        are drawn together.
        """
        ...

    def live(self, renderable: "RenderableType | None") -> None:
        """Replace what is drawn between the finished text and the input; None clears it."""
        ...

    def status(self, status: Status) -> None:
        """Replace the status line."""
        ...

    def ask(self, question: Question) -> str:
        """Wait for one of the question's keys."""
        ...

    def prefill(self, text: str) -> None:
        """Put a message into the input, for the person to change and send; sent as it is, it is
        that message again: no command, and no word of it names a file."""
        ...

    def give_back(self) -> None:
        """Put what was submitted last back into the input, since it was not sent; where something
        else was begun there, it stays in the history."""
        ...


class View(Protocol):
    """How one answer becomes visible, event by event."""

    def begin(self, count: Count | None = None) -> None:
        """An answer is about to come; `count` is of the model that gives it."""
        ...

    def feed(self, event: Event) -> None:
        """One event; Done is the last."""
        ...

    def end(self) -> None:
        """No event follows, Done or not: nothing half-drawn stays on the screen."""
        ...

    def note(self, sentence: str) -> None:
        """One calm line of ours."""
        ...

    def error(self, sentence: str) -> None:
        """One line that says what failed."""
        ...

    def unfold_last(self) -> None:
        """Print the last reasoning in full."""
        ...

    reasoning: str
    """`show`, `fold` or `hide`."""
