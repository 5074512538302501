"""A request for answers, as a value that no dialect shows through.

A dialect reads a body into this and writes the events of `serving.events`; what it leaves out here
has no place in a prompt, such as ids, metadata and marks of what to cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.engine.sampling import NO_SHIFTS, Shifts


@dataclass(frozen=True)
class ToolChoice:
    """Whether the answer has to call tools: as it likes, not at all, some tool, or tool `name`."""

    kind: Literal["auto", "none", "required", "named"] = "auto"
    name: str = ""
    allowed: tuple[str, ...] | None = None
    """Where not all tools may be called, the names of those that may. The others stay in the
    prompt, so that it begins as ever."""

    def allows(self, name: str) -> bool:
        """Whether the tool of this name may be called."""
        is_allowed = self.allowed is None or name in self.allowed
        return self.kind != "none" and is_allowed and self.name in ("", name)


@dataclass(frozen=True)
class AnswerFormat:
    """What an answer has to be: any text, a JSON object, or JSON that `schema` allows.

    It holds for the answer alone, never for the reasoning before it.
    """

    kind: Literal["text", "json", "schema"] = "text"
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """What to answer and how."""

    messages: Sequence[Mapping[str, Any]]
    """As `chat.requests.read_messages` takes them, system messages anywhere among them."""
    settings: AnswerSettings = field(default=AnswerSettings(Thinking("chat")))
    """Thinking, tools, sampling, limits and stop texts; its `system` comes before all messages."""
    tool_choice: ToolChoice = field(default=ToolChoice())
    several_calls: bool = True
    """Whether one answer may call more than one tool, where it is held to calling some."""
    answer_format: AnswerFormat = field(default=AnswerFormat())
    answers: int = 1
    """How many, each drawn with a seed of its own: the seed and its number."""
    owner: str = ""
    """Who asks; people share nothing with one another."""
    text: str | None = None
    """A text to go on with in the place of messages, without a template."""
    is_side: bool = False
    """Whether this is beside a conversation, such as a title: what it reads is let go of first."""
    wants_likelihoods: bool = False
    """Whether to give the log-probability of every token."""
    likeliest: int = 0
    """Beside it, those of so many of the likeliest tokens in its place."""
    shifts: Shifts = NO_SHIFTS
    """Biases and penalties on what an answer said, its reasoning too."""

    @property
    def tool_names(self) -> list[str]:
        """The names of its tools."""
        return [str(tool.get("function", tool).get("name")) for tool in self.settings.tools]

    @property
    def is_schema_alone(self) -> bool:
        """Whether a schema says all about the answer: no tool may be called as well."""
        choice = self.tool_choice
        may_call = any(map(choice.allows, self.tool_names)) or choice.kind in ("required", "named")
        return self.answer_format.kind == "schema" and not may_call
