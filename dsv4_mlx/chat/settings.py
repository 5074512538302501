"""What a checkpoint folder says about chatting with it: thinking levels, context, sampling."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dsv4_mlx.chat.effort import EffortTable, ThinkingMode, detect_effort_table, effort_levels
from dsv4_mlx.chat.generation_config import sampling_of
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from dsv4_mlx.weights.checkpoint import ModelFolder

MAX_LEVEL_CONTEXT: Final = 384 * 1024
"""Tokens of context that the model card asks for at level max."""


@dataclass(frozen=True)
class Thinking:
    """One thinking level as the encoder's two parameters."""

    mode: ThinkingMode
    effort: str | None = None

    @property
    def level(self) -> str:
        """Its name on the command line."""
        return self.effort or "none"


def thinking_levels(table: EffortTable) -> tuple[str, ...]:
    """Names of the levels, from none to max."""
    return ("none", *effort_levels(table))


def thinking_at(level: str | None, table: EffortTable) -> Thinking:
    """A level's parameters; None is the one that thinks and adds no prefix.

    Raises UsageError, with the list, for a level that the table lacks.
    """
    level = level or effort_levels(table)[0]
    if level not in thinking_levels(table):
        raise UsageError(
            f"The thinking levels of this checkpoint are {', '.join(thinking_levels(table))} "
            f"(effort table {table}), got {level!r}; choose one of them."
        )
    return Thinking("chat") if level == "none" else Thinking("thinking", level)


@dataclass(frozen=True)
class ChatSettings:
    """The chat side of one checkpoint."""

    effort_table: EffortTable
    context: int  # tokens, prompt and reply together
    sampling: Sampling = field(default=Sampling())
    level: str | None = None
    """The thinking level where nobody names one; None is the one that thinks without a prefix."""

    @classmethod
    def of(cls, folder: "ModelFolder", effort_table: EffortTable | None = None) -> "ChatSettings":
        """The settings of a checkpoint; `effort_table` stands in the place of what its files say.

        Raises CheckpointError for an unusable generation_config.json.
        """
        sampling = sampling_of(folder.generation or {}, folder.generation_path)
        table = effort_table or detect_effort_table(folder.folder)
        return cls(table, folder.described.max_position_embeddings, sampling)

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the thinking levels, from none to max."""
        return thinking_levels(self.effort_table)

    def thinking(self, level: str | None = None) -> Thinking:
        """What a level means for the encoder; None is that of these settings.

        Raises UsageError for a level that the table lacks or the context is too small for.
        """
        level = level or self.level
        thinking = thinking_at(level, self.effort_table)
        if level == "max" and self.context < MAX_LEVEL_CONTEXT:
            raise UsageError(
                f"Thinking level max asks for a context of at least {MAX_LEVEL_CONTEXT:,} tokens "
                f"and this checkpoint has {self.context:,}; choose {', '.join(self.levels[:-1])}."
            )
        return thinking


def max_context_sentence(settings: ChatSettings) -> str:
    """What level max asks for, said once when it is chosen."""
    return (
        f"thinking level max asks for a context of at least {MAX_LEVEL_CONTEXT:,} tokens; "
        f"this checkpoint has {settings.context:,}"
    )
