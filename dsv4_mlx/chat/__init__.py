"""Chat as pure text: messages to a prompt, a reply back to a message. Imports no mlx."""

from dsv4_mlx.chat.effort import detect_effort_table, effort_levels
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.events import Event, ReasoningDelta, TextDelta
from dsv4_mlx.chat.messages import ChatError, ToolCall
from dsv4_mlx.chat.parsing import ReplyParser, merge_deltas, parse

__all__ = [
    "ChatError",
    "Event",
    "Prompt",
    "ReasoningDelta",
    "ReplyParser",
    "Segment",
    "TextDelta",
    "ToolCall",
    "detect_effort_table",
    "effort_levels",
    "encode_messages",
    "merge_deltas",
    "parse",
]
