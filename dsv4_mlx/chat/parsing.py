"""A reply, as it streams, to reasoning, answer and tool calls.

`ReplyParser` gives the same events however the reply is split: what could still become a marker is
held back until it is decided. It is fed text in which control tokens are marks, see `chat.marks`;
where a reply is known as text only, every spelling of a control token counts as that token. It
reads what models really write; with `strict`, `close` also holds the whole reply to the letter of
the release's parser.

Read leniently: a missing `</think>`, `string` attribute, end token or closing of a call or block;
other spellings of the block; truncated closings; calls before `</think>` or without a block; text
around calls; stray `<think>` and `</think>`. What cannot be read as a call stays in the answer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, get_args

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.chat.events import (
    CallArguments,
    CallBegun,
    CallPart,
    ReasoningDelta,
    ReplyPart,
    TextDelta,
)
from dsv4_mlx.chat.markers import PROSE, Markup
from dsv4_mlx.chat.marks import MARKED, SpelledMarks, mark, spelled_out
from dsv4_mlx.chat.messages import AssistantDict, ChatError, ToolCall
from dsv4_mlx.chat.schema import ToolSchemas
from dsv4_mlx.chat.stops import StopTexts
from dsv4_mlx.chat.strict import parse_strict
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.chat.written_call import WrittenCall

ParsedPart = ReplyPart | CallPart


def parse(text: str, thinking_mode: ThinkingMode = "chat", strict: bool = False) -> AssistantDict:
    """The message that a whole reply stands for; with `strict`, ChatError where it is malformed."""
    parser = ReplyParser(thinking_mode, strict=strict)
    parser.feed(text)
    return parser.close()


def merge_deltas(events: Iterable[ParsedPart]) -> list[ParsedPart]:
    """`events` with neighbouring deltas of one kind joined."""
    merged: list[ParsedPart] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + event.text)
        elif isinstance(event, ReasoningDelta) and isinstance(last, ReasoningDelta):
            merged[-1] = ReasoningDelta(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            merged[-1] = CallArguments(event.call_id, last.json + event.json)
        else:
            merged.append(event)
    return merged


class ReplyParser:
    """Feed it the reply piece by piece, then `finish` for what was held back, then `close`.

    `spelled` are the control tokens that count where their letters stand, all of them for a reply
    that is known as text only; others are markup where their mark stands. `tools` are the
    definitions whose schemas say what an argument is. Where one of the texts `stop` appears in the
    answer the reply ends, whatever is fed; see `chat.stops`. With `streams_calls` every ToolCall
    comes after its CallBegun and CallArguments, see `chat.argument_stream`.
    """

    def __init__(
        self,
        thinking_mode: ThinkingMode,
        *,
        strict: bool = False,
        spelled: Collection[str] = MARKED,
        tools: Sequence[Mapping[str, Any]] = (),
        stop: Sequence[str] = (),
        streams_calls: bool = False,
    ) -> None:
        if thinking_mode not in get_args(ThinkingMode):
            raise ChatError(f"thinking_mode must be 'chat' or 'thinking', got {thinking_mode!r}.")
        self._mode: ThinkingMode = thinking_mode
        self._strict = strict
        self._spelled = SpelledMarks(spelled)
        self._stops = StopTexts(stop)
        self._schemas = ToolSchemas(() if strict else tools)
        self._reasons = thinking_mode == "thinking"
        self._streams_calls = streams_calls
        self._knows_markup = DSML not in spelled
        self._left_open = False
        self._call: WrittenCall | None = None
        self._in_block = False
        self._has_text = False
        # After a tool marker, white space is layout unless text follows it.
        self._after_tool = False
        self._layout = ""
        self._buffer = ""
        self._previous = ""
        self._fed: list[str] = []
        self._events: list[ParsedPart] = []
        self._new: list[ParsedPart] = []

    @property
    def reasons(self) -> bool:
        """Whether what comes next is reasoning, as far as the text so far tells."""
        return self._reasons

    @property
    def stopped(self) -> str | None:
        """The stop text that ended the answer."""
        return self._stops.met

    @property
    def waits(self) -> bool:
        """Whether something that was fed is still undecided, or belongs to a call."""
        held = self._buffer or self._layout or self._spelled.holds or self._stops.holds
        return bool(held or self._call)

    @property
    def calls(self) -> bool:
        """Whether what comes next belongs to a tool call."""
        return self._in_block or self._call is not None

    @property
    def left_open(self) -> bool:
        """Whether the reply ended inside a call or its markup, which is then no part of it."""
        return self._left_open

    def feed(self, text: str) -> list[ParsedPart]:
        """The events that `text` decides. Never raises."""
        self._read(self._spelled.add(text))
        return self._take()

    def finish(self, is_whole: bool = False) -> list[ParsedPart]:
        """The reply has ended, by the model itself if `is_whole`: what was still undecided."""
        self._read(self._spelled.finish())
        rest, self._buffer = self._buffer, ""
        is_cut = self._knows_markup and not is_whole
        if call := self._call:
            call.raw.append(rest)
            if is_whole and call.lacks_only_its_closing(rest):
                self._end_call(call)
            elif call.stream is not None or is_cut:
                self._left_open, self._call = True, None
            else:
                self._abandon_call()
        elif is_cut and rest and (self._in_block or mark(DSML) in rest):
            self._left_open = True
        else:
            self._prose(rest)
        self._flush()
        return self._take()

    def close(self) -> AssistantDict:
        """The whole reply as a message; with `strict`, ChatError where it is malformed."""
        self.finish()
        if self._strict:
            return parse_strict("".join(self._fed), self._mode)
        calls = [event.to_dict() for event in self._events if isinstance(event, ToolCall)]
        return {
            "role": "assistant",
            "content": self._joined(TextDelta),
            "reasoning_content": self._joined(ReasoningDelta),
            "tool_calls": calls,
        }

    def _joined(self, kind: type[TextDelta] | type[ReasoningDelta]) -> str:
        return "".join(event.text for event in self._events if isinstance(event, kind))

    def _read(self, marked: str) -> None:
        if self.stopped is not None:
            return
        self._fed.append(marked)
        self._buffer += marked
        while self._consume_marker():
            pass

    def _take(self) -> list[ParsedPart]:
        new, self._new = merge_deltas(self._new), []
        self._events += new
        return new

    def _consume_marker(self) -> bool:
        """Passes the text before the next marker on, then the marker; False without one."""
        markers = self._call.markers if self._call else PROSE
        match = markers.search(self._buffer)
        start = match.start() if match else markers.undecided(self._buffer)
        text, self._buffer = self._buffer[:start], self._buffer[match.end() if match else start :]
        if self._call:
            self._give(self._call.text(text))
        else:
            self._prose(text)
        if self.stopped is not None:
            self._buffer = ""
        if match is None or self.stopped is not None:
            return False
        kind = markers.kinds[match[0]]
        if self._call:
            self._in_call(self._call, kind, match[0])
        else:
            self._in_prose(kind, match[0])
        self._previous = match[0][-1]
        return True

    def _prose(self, text: str) -> None:
        if not text:
            return
        self._previous = text[-1]
        self._has_text = self._has_text or not text.isspace()
        if self._after_tool:
            text = self._layout + text
            self._after_tool = text.isspace()
            self._layout = text if self._after_tool else ""
        if not self._after_tool:
            self._say(spelled_out(text))

    def _say(self, text: str) -> None:
        if self._reasons:
            self._new.append(ReasoningDelta(text))
        elif shown := self._stops.add(text):
            self._new.append(TextDelta(shown))

    def _flush(self) -> None:
        """The answer is interrupted: no stop text goes on after what comes now."""
        if held := self._stops.finish():
            self._new.append(TextDelta(held))

    def _in_prose(self, kind: Markup, marker: str) -> None:
        if kind in (Markup.BLOCK, Markup.INVOKE):
            self._flush()
        match kind:
            case Markup.END_THINK if self._reasons:
                self._reasons = False
            case Markup.THINK if self._opens_reasoning():
                self._reasons = True
            case Markup.THINK | Markup.END_THINK if self._previous in ("`", '"', "'"):
                self._prose(marker)  # it is being talked about
            case Markup.BLOCK_END if not self._in_block:
                self._prose(marker)
            case Markup.BLOCK | Markup.BLOCK_END:
                self._reasons = False
                self._in_block = kind is Markup.BLOCK
                self._end_tool()
            case Markup.INVOKE:
                self._reasons = False
                self._call = WrittenCall(marker)
            case _:  # a stray thinking marker or the end token, neither of which is text
                self._layout = ""

    def _opens_reasoning(self) -> bool:
        """In chat mode a reply may begin with reasoning all the same."""
        return self._mode == "chat" and not self._has_text

    def _in_call(self, call: WrittenCall, kind: Markup, marker: str) -> None:
        match kind:
            case Markup.PARAMETER:
                is_first = not call.parameters
                if self._streams_calls and is_first and call.begin(self._schemas):
                    self._new.append(CallBegun("", call.name))
                self._give(call.parameter(marker))
            case Markup.PARAMETER_END:
                self._give(call.end_parameter(marker))
            case Markup.INVOKE_END:
                call.raw.append(marker)
                self._end_call(call)
            case Markup.INVOKE | Markup.BLOCK_END | Markup.EOS:
                self._end_call(call)
                self._in_prose(kind, marker)
            case _:
                raise AssertionError(kind)

    def _give(self, json: str) -> None:
        if json:
            self._new.append(CallArguments("", json))

    def _end_call(self, call: WrittenCall) -> None:
        if call.stream is not None:
            self._give(call.stream.close())
        read = call.read(self._schemas)
        if read is None:
            self._abandon_call()
            return
        if self._streams_calls and call.stream is None:  # nothing was sure before the end
            self._new += [CallBegun("", read.name), CallArguments("", read.arguments)]
        self._new.append(read)
        self._call = None
        self._end_tool()

    def _abandon_call(self) -> None:
        """What was taken for a call is text of the answer."""
        assert self._call is not None
        raw, self._call = "".join(self._call.raw), None
        stops, self._stops = self._stops, StopTexts()  # it was written as a call
        self._prose(raw)
        self._stops = stops

    def _end_tool(self) -> None:
        self._after_tool, self._layout = True, ""
