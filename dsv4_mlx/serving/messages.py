"""Messages as clients send them, brought to what a cache can hold on to.

What changes from request to request without meaning anything is left out or put where nothing that
stood before it changes: lines of the first system message that only count or bill; system messages
and reminders in the middle, which stay in their place; a content of null, which is no text.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dsv4_mlx.chat.requests import read_messages

_VOLATILE: Final = re.compile(r"^x-anthropic-[a-z-]+:[^\n]*\n?", re.MULTILINE)
"""Lines such as `x-anthropic-billing-header: cc_version=...; cch=...`, new in every request."""


def cleaned(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for the encoder: system ones joined at the beginning, others where they stood.

    ChatError names a message that cannot be read.
    """
    read = read_messages([_with_text(message) for message in messages])
    count = next(
        (place for place, message in enumerate(read) if message["role"] != "system"), len(read)
    )
    beginning = "\n\n".join(filter(None, map(_system_text, read[:count])))
    rest = [_in_place(read, place) for place in range(count, len(read))]
    return [{"role": "system", "content": beginning}, *rest] if beginning else rest


def _with_text(message: Any) -> Any:
    """No text is no text, in a tool's result too."""
    if not isinstance(message, Mapping) or message.get("content", "") is not None:
        return message
    return {**message, "content": ""}


def _system_text(message: Mapping[str, Any]) -> str:
    return _VOLATILE.sub("", message.get("content") or "").strip("\n")


def _in_place(messages: Sequence[dict[str, Any]], place: int) -> dict[str, Any]:
    """A system message in the middle is a reminder before a user's turn, else part of the turn."""
    message = messages[place]
    if message["role"] not in ("system", "latest_reminder"):
        return message
    following = messages[place + 1]["role"] if place + 1 < len(messages) else None
    begins_turn = messages[place - 1]["role"] == "assistant" and following == "user"
    role = "latest_reminder" if begins_turn else "user"
    return {"role": role, "content": message.get("content") or ""}
