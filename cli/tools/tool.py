"""What a tool is: a definition for the model and a function that answers with text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_RESULT = 32_000
"""Characters of one result; more of them would push the conversation out of the context."""


class ToolError(Exception):
    """Why a tool did not do what was asked: one sentence for the model."""


@dataclass(frozen=True)
class Tool:
    """One tool; `run` gets arguments that fit `parameters`, a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], str]

    def definition(self) -> dict[str, Any]:
        """As OpenAI's interface writes it, which is what the encoder takes."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": dict(self.parameters),
            },
        }


def parameters(required: tuple[str, ...] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def characters(text: str) -> str:
    """`text` with nothing in it that UTF-8 cannot hold: names of files may have such bytes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def bounded(text: str, hint: str = "", limit: int = LONGEST_RESULT) -> str:
    """The beginning of `text` when it is too long, with a line that says so."""
    if len(text) <= limit:
        return text
    more = f"; {hint}" if hint else ""
    return f"{text[:limit]}\n[cut here: {len(text) - limit:,} more characters{more}]"


def middle_cut(text: str, limit: int = LONGEST_RESULT) -> str:
    """Beginning and end of `text` when it is too long, with a line that says what is missing."""
    if len(text) <= limit:
        return text
    half = limit // 2
    missing = len(text) - 2 * half
    return f"{text[:half]}\n[{missing:,} characters left out here]\n{text[-half:]}"
