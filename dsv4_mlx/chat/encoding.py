"""Messages to the prompt of DeepSeek-V4, byte for byte as the release's encoder writes it.

A prompt is a list of segments: control segments are single control tokens that this module wrote,
every other segment is text, whatever it spells. `str(prompt)` joins them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from dsv4_mlx.chat.effort import EffortTable, ThinkingMode, effort_prefix
from dsv4_mlx.chat.messages import (
    ChatError,
    Message,
    TextBlock,
    ToolCall,
    ToolResult,
    last_user_index,
    parse_messages,
    sort_tool_results,
    to_json,
)
from dsv4_mlx.chat.messages import (
    drop_thinking as _drop_thinking,
)
from dsv4_mlx.chat.tokens import (
    ASSISTANT,
    BOS,
    DSML,
    END_THINK,
    EOS,
    LATEST_REMINDER,
    TASKS,
    THINK,
    USER,
)
from dsv4_mlx.files.documents import DocumentError, parse_json

TOOLS_TEMPLATE = f"""\
## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by \
writing a "<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types \
(numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning \
inside {THINK}...{END_THINK} BEFORE any tool calls or final response.

Otherwise, output directly after {END_THINK} with tool calls or final response.

### Available Tool Schemas

"""
TOOLS_END = """

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""
RESPONSE_FORMAT = (
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
)


class Segment(NamedTuple):
    """A stretch of the prompt: one control token, or text that stays text."""

    text: str
    is_control: bool


@dataclass(frozen=True)
class Prompt:
    """What the model is asked, ready for `Tokenizer.encode`. Neighbouring text is one segment."""

    segments: list[Segment]

    def __str__(self) -> str:
        return "".join(segment.text for segment in self.segments)


def encode_messages(
    messages: Sequence[Mapping[str, Any]],
    *,
    thinking_mode: ThinkingMode = "chat",
    reasoning_effort: str | None = None,
    drop_thinking: bool = True,
    add_default_bos_token: bool = True,
    context: Sequence[Mapping[str, Any]] | None = None,
    effort_table: EffortTable = "2026-04",
) -> Prompt:
    """The prompt for `messages` that follow an already encoded `context`.

    The parameters are those of the official encoder; `effort_table` chooses its edition. Old
    reasoning is kept whatever `drop_thinking` says if a message carries tools. ChatError (a
    PromptError and ValueError) names the message and what is wrong with it.
    """
    if thinking_mode not in get_args(ThinkingMode):
        raise ChatError(f"thinking_mode must be 'chat' or 'thinking', got {thinking_mode!r}.")
    before, new = _prepared(messages, context or [])
    turns = before + new
    drop = drop_thinking and not any(turn.tools for turn in turns)
    start = len(before)
    if thinking_mode == "thinking" and drop:
        # The context is shortened by itself, as it was when it was encoded.
        turns, start = _drop_thinking(turns), len(_drop_thinking(before))
    prefix = effort_prefix(reasoning_effort, effort_table)
    renderer = _Renderer(turns, thinking_mode, drop, prefix)
    return renderer.prompt(start, bos=add_default_bos_token and not before)


def _prepared(
    messages: Sequence[Mapping[str, Any]], context: Sequence[Mapping[str, Any]]
) -> tuple[list[Message], list[Message]]:
    """Context and messages merged each for itself; calls in the context order results after it."""
    before, new = parse_messages(context), parse_messages(messages)
    return sort_tool_results(before), sort_tool_results([*before, *new])[len(before) :]


@dataclass
class _Writer:
    """Collects segments and joins neighbouring text, which a tokenizer must see as one."""

    segments: list[Segment] = field(default_factory=list)

    def control(self, token: str) -> None:
        self.segments.append(Segment(token, True))

    def text(self, text: str) -> None:
        if not text:
            return
        if self.segments and not self.segments[-1].is_control:
            text = self.segments.pop().text + text
        self.segments.append(Segment(text, False))

    def template(self, text: str) -> None:
        """Text of ours, in which control tokens mean themselves."""
        for piece in re.split(f"({DSML}|{THINK}|{END_THINK})", text):
            if piece in (DSML, THINK, END_THINK):
                self.control(piece)
            else:
                self.text(piece)


class _Renderer:
    """Writes turns one after another; what a turn looks like depends on its neighbours."""

    def __init__(
        self, turns: Sequence[Message], mode: ThinkingMode, drop: bool, prefix: str
    ) -> None:
        self.turns = turns
        self.thinking = mode == "thinking"
        self.drop = drop
        self.prefix = prefix if self.thinking else ""
        self.last_user = last_user_index(turns)
        self.out = _Writer()

    def prompt(self, start: int, *, bos: bool) -> Prompt:
        if bos:
            self.out.control(BOS)
        for index in range(start, len(self.turns)):
            if index == 0:
                self.out.text(self.prefix)
            self._turn(index)
            self._transition(index)
        return Prompt(self.out.segments)

    def _turn(self, index: int) -> None:
        turn = self.turns[index]
        match turn.role:
            case "system":
                self.out.text(turn.content or "")
                self._instructions(turn)
            case "developer":
                self._developer(turn)
            case "user":
                self.out.control(USER)
                self.out.text("\n\n".join(_block_text(block) for block in turn.blocks))
            case "latest_reminder":
                self.out.control(LATEST_REMINDER)
                self.out.text(turn.content or "")
            case "assistant":
                self._assistant(index, turn)
            case unknown:
                raise ChatError(
                    "A role must be system, developer, user, assistant, tool or latest_reminder, "
                    f"got {unknown!r}."
                )

    def _developer(self, turn: Message) -> None:
        if not turn.content:
            raise ChatError("A developer message needs content, got none; write it or leave it.")
        self.out.control(USER)
        self.out.text(turn.content)
        self._instructions(turn)

    def _instructions(self, turn: Message) -> None:
        """The tools and the response format that a system or developer message carries."""
        if turn.tools:
            self.out.text("\n\n")
            self.out.template(TOOLS_TEMPLATE)
            self.out.text("\n".join(to_json(tool) for tool in turn.tools))
            self.out.template(TOOLS_END)
        if turn.response_format:
            self.out.text("\n\n" + RESPONSE_FORMAT + to_json(turn.response_format))

    def _assistant(self, index: int, turn: Message) -> None:
        # The answer to a task has no thinking part.
        answers_task = index > 0 and self.turns[index - 1].task is not None
        is_recent = not self.drop or index > self.last_user
        if self.thinking and is_recent and not answers_task:
            self.out.text(turn.reasoning)
            self.out.control(END_THINK)
        self.out.text(turn.content or "")
        if turn.tool_calls:
            self._tool_calls(turn.tool_calls)
        if not turn.wo_eos:
            self.out.control(EOS)

    def _tool_calls(self, calls: Iterable[ToolCall]) -> None:
        self.out.template(f"\n\n<{DSML}tool_calls>\n")
        for call in calls:
            self.out.template(f"<{DSML}invoke name=")
            self.out.text(f'"{call.name}">\n')
            self._parameters(call)
            self.out.template(f"\n</{DSML}invoke>\n")
        self.out.template(f"</{DSML}tool_calls>")

    def _parameters(self, call: ToolCall) -> None:
        for number, (name, value) in enumerate(_arguments(call).items()):
            is_string = isinstance(value, str)
            self.out.template(f"{chr(10) if number else ''}<{DSML}parameter name=")
            self.out.text(f'"{name}" string="{str(is_string).lower()}">')
            self.out.text(value if is_string else to_json(value))
            self.out.template(f"</{DSML}parameter>")

    def _transition(self, index: int) -> None:
        """What makes the model speak after a message, or separates it from the answer to it."""
        turn = self.turns[index]
        following = self.turns[index + 1].role if index + 1 < len(self.turns) else "assistant"
        if following not in ("assistant", "latest_reminder"):
            return
        if turn.task is not None:
            self._task(turn.task)
        elif turn.role in ("user", "developer"):
            self.out.control(ASSISTANT)
            is_recent = not self.drop or index >= self.last_user
            self.out.control(THINK if self.thinking and is_recent else END_THINK)

    def _task(self, task: str) -> None:
        if task not in TASKS:
            raise ChatError(f"A task must be one of {', '.join(TASKS)}, got {task!r}.")
        if task == "action":
            self.out.control(ASSISTANT)
            self.out.control(THINK if self.thinking else END_THINK)
        self.out.control(TASKS[task])


def _block_text(block: TextBlock | ToolResult) -> str:
    is_result = isinstance(block, ToolResult)
    return f"<tool_result>{block.text}</tool_result>" if is_result else block.text


def _arguments(call: ToolCall) -> dict[str, Any]:
    """The parameters of a call; text that is no JSON is one parameter named `arguments`."""
    try:
        arguments = parse_json(call.arguments)
    except DocumentError:
        return {"arguments": call.arguments}
    if not isinstance(arguments, dict):
        raise ChatError(
            f"The arguments of {call.name} must be a JSON object, got {call.arguments[:60]!r}."
        )
    return arguments
