"""What a person may change between two turns, as one value: how the next answer is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsv4_mlx.chat.loops import Loops
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.sampling import Sampling


@dataclass(frozen=True)
class AnswerSettings:
    """What one answer was asked with, as it was at that moment."""

    thinking: Thinking
    system: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    sampling: Sampling = field(default=Sampling())
    max_tokens: int | None = None
    budget: int | None = None
    stop: tuple[str, ...] = ()
    loops: Loops = "notice"

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
