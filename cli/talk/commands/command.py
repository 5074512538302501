"""What a slash command is, and how its argument is read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4_mlx.engine.sampling import Range
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


@dataclass(frozen=True)
class Command:
    """One slash command; `action` gets what follows the name."""

    name: str
    argument: str
    summary: str
    action: Callable[["Chat", str], None]
    choices: Callable[["Chat"], Sequence[str]] = lambda chat: ()
    """Arguments that completion offers."""

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"/{self.name} {self.argument}".rstrip()


def number(text: str, name: str, range_: Range) -> float:
    """`text` as a number in a range; UsageError with the range."""
    try:
        return range_.read(text)
    except ValueError:
        raise UsageError(f"/{name} takes {range_.expected(text)}, got {text!r}.") from None


def whole(text: str, name: str, *, least: int = 1) -> int:
    """`text` as a whole number; UsageError with the range."""
    return int(number(text, name, Range(least, whole=True)))


def short(text: str, width: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.1f} MiB"
