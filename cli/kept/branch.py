"""One timeline of a run: in memory, and in the files that keep it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.kept.session_log import SessionLog
from dsv4_mlx.chat.turns import Turn

if TYPE_CHECKING:
    from dsv4_mlx.chat.conversation import Conversation


@dataclass
class Branch:
    """A conversation with its file."""

    name: str
    conversation: "Conversation | None" = None
    """None until the model is there."""
    log: SessionLog | None = None
    """None where nothing is kept, or nothing has been said."""
    logged: tuple[Turn, ...] = ()
    """What the file holds; also the turns of a conversation that is not open yet."""
    foreign: bool = False
    """The file names another model: turns are kept there without tokens, which only their own
    model reads."""
    editing: int | None = None
    """The turn that the next message replaces."""
    told_full: bool = False
    """It was said that its context is nearly full."""

    @property
    def id(self) -> str:
        """That of its file, "" where it has none."""
        return "" if self.log is None else self.log.id

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns as they stand."""
        return self.logged if self.conversation is None else self.conversation.turns

    def messages(self, system: str | None) -> list[dict[str, Any]]:
        """The dialogue as OpenAI-style dictionaries, after a system message."""
        first = [] if system is None else [{"role": "system", "content": system}]
        return [*first, *(dict(message) for turn in self.turns for message in turn.messages)]

    def keep(self) -> None:
        """Bring the file to what the conversation holds."""
        turns = self.turns
        if self.log is not None:
            same = _common(self.logged, turns)
            if same == len(turns) < len(self.logged):
                self.log.rewind(same)
            for index, turn in enumerate(turns[same:], same):
                self.log.add_turn(turn.without_tokens() if self.foreign else turn, keep=index)
        self.logged = turns

    def release(self) -> None:
        """Let go of the model: the turns stay, without the tokens that only it reads."""
        self.logged = tuple(turn.without_tokens() for turn in self.turns)
        self.conversation = None
        self.foreign = self.log is not None

    @property
    def cache_bytes(self) -> int:
        """What its KV file would take, about."""
        if self.conversation is None:
            return 0
        use = self.conversation.context()
        return use.window_bytes + use.compressed_bytes + use.index_bytes


def _common(one: Sequence[Turn], other: Sequence[Turn]) -> int:
    same = 0
    for old, new in zip(one, other, strict=False):
        if old is not new and old != new:
            break
        same += 1
    return same


def count_turns(turns: Sequence[Turn]) -> str:
    """Their number for people."""
    return f"{len(turns)} turn{'' if len(turns) == 1 else 's'}"
