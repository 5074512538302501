"""What a person may change between two turns, as one value: how the next answer is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsv4_mlx.chat.loops import Loops
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.engine.sampling import Sampling


@dataclass(frozen=True)
class AnswerSettings:
    """What one answer is asked with."""

    thinking: Thinking
    system: str | None = None
    """The system message."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Definitions as OpenAI's interface takes them."""
    sampling: Sampling = field(default=Sampling())
    max_tokens: int | None = None
    """Bounds one reply, reasoning included."""
    budget: int | None = None
    """Bounds its reasoning in tokens; 0 is no reasoning, as without thinking."""
    stop: Sequence[str] = ()
    """Texts before which an answer ends, see `chat.stops`."""
    loops: Loops = "notice"
    """What happens when a reply repeats itself without end, see `chat.loops`."""
    draft: DraftChoice = "auto"
    """What drafts tokens, see `engine.drafting`; it changes no token."""
    draft_max: int | None = None
    """Bounds the drafts of a pass, 1 to 7."""

    @property
    def effective_thinking(self) -> Thinking:
        """The level that the prompt asks for. Under a budget of 0 that is none: the release writes
        another prompt without reasoning than with reasoning cut to nothing."""
        return Thinking("chat") if self.budget == 0 else self.thinking

    def system_messages(self) -> list[dict[str, Any]]:
        """The message that opens the prompt, tool definitions in it; none if there is nothing."""
        if self.system is None and not self.tools:
            return []
        message: dict[str, Any] = {"role": "system", "content": self.system or ""}
        return [
            {**message, "tools": list(map(_openai_tool, self.tools))} if self.tools else message
        ]


def _openai_tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A definition with its `function`, which may come without the wrapping around it."""
    return tool if "function" in tool else {"type": "function", "function": tool}
