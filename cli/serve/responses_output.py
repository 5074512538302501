"""Items of a response's output, each with the events that tell of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from cli.serve.likelihoods import Told
from cli.serve.parts import AnswerPart
from cli.serve.responses_tools import ClientTool, FreeText

OutputEvent = tuple[str, dict[str, Any]]
"""An event's type and content."""
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputItem(ABC):
    """One item; `finished` is all of it once it is closed."""

    prefix: ClassVar[str]

    def __init__(self, number: int, suffix: str) -> None:
        self.number = number
        self.id = f"{self.prefix}_{suffix}_{number}"
        self.finished: Mapping[str, Any] = {}

    def opened(self) -> Iterator[OutputEvent]:
        """That it is there."""
        item = self.shape("", "in_progress")
        yield "response.output_item.added", {"output_index": self.number, "item": item}

    @abstractmethod
    def grown(self, text: str) -> Iterator[OutputEvent]:
        """That it goes on with `text`."""

    def closed(self, text: str, *, is_whole: bool) -> Iterator[OutputEvent]:
        """That it is done, with all its `text`."""
        self.finished = self.shape(text, "completed" if is_whole else "incomplete")
        yield "response.output_item.done", {"output_index": self.number, "item": self.finished}

    @abstractmethod
    def shape(self, text: str, status: ItemStatus) -> dict[str, Any]:
        """The item with `text`."""

    @property
    def _at(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.number}


class TextItem(OutputItem):
    """A message, or reasoning, whose text is a part of it with events of its own."""

    part_events: ClassVar[str] = "response.content_part"
    text_events: ClassVar[str]
    index_name: ClassVar[str] = "content_index"

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """The part that holds the text."""

    def opened(self) -> Iterator[OutputEvent]:
        yield from super().opened()
        yield f"{self.part_events}.added", {**self._in_part, "part": self.part("")}

    def grown(self, text: str) -> Iterator[OutputEvent]:
        yield f"{self.text_events}.delta", {**self._in_part, "delta": text, **self.of_delta()}

    def closed(self, text: str, *, is_whole: bool) -> Iterator[OutputEvent]:
        yield f"{self.text_events}.done", {**self._in_part, "text": text, **self.of_text()}
        yield f"{self.part_events}.done", {**self._in_part, "part": self.part(text)}
        yield from super().closed(text, is_whole=is_whole)

    def of_delta(self) -> Mapping[str, Any]:
        """What the event of a piece of the text has beside it."""
        return {}

    def of_text(self) -> Mapping[str, Any]:
        """What the event of the whole text has beside it."""
        return {}

    @property
    def _in_part(self) -> dict[str, Any]:
        return {**self._at, self.index_name: 0}


class MessageItem(TextItem):
    """Text of the answer."""

    prefix = "msg"
    text_events = "response.output_text"

    def __init__(self, number: int, suffix: str) -> None:
        super().__init__(number, suffix)
        self._told: list[Told] = []
        self._latest: list[Told] = []

    def tell(self, told: list[Told]) -> None:
        """What the next piece of the text has as log-probabilities of its tokens."""
        self._told += told
        self._latest = told

    def of_delta(self) -> Mapping[str, Any]:
        return {"logprobs": self._latest}

    def of_text(self) -> Mapping[str, Any]:
        return {"logprobs": list(self._told)}

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], **self.of_text()}

    def shape(self, text: str, status: ItemStatus) -> dict[str, Any]:
        content = [self.part(text)] if status != "in_progress" else []
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


class ReasoningItem(TextItem):
    """Reasoning as the text of its item."""

    prefix = "rs"
    text_events = "response.reasoning_text"

    def __init__(self, number: int, suffix: str, seal: Callable[[str], str] | None) -> None:
        super().__init__(number, suffix)
        self._seal = seal

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}

    def shape(self, text: str, status: ItemStatus) -> dict[str, Any]:
        parts = [self.part(text)] if status != "in_progress" else []
        item: dict[str, Any] = {"id": self.id, "type": "reasoning", "summary": [], "content": []}
        item[self.place] = parts
        if self._seal is not None:
            item["encrypted_content"] = self._seal(text) if parts else ""
        return {**item, "status": status}

    place: ClassVar[str] = "content"


class SummaryItem(ReasoningItem):
    """Reasoning as the summary of its item."""

    part_events = "response.reasoning_summary_part"
    text_events = "response.reasoning_summary_text"
    index_name = "summary_index"
    place = "summary"

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text", "text": text}


class CallItem(OutputItem):
    """A call of a function."""

    prefix = "fc"

    def __init__(self, number: int, suffix: str, call_id: str, tool: ClientTool) -> None:
        super().__init__(number, suffix)
        self._call_id, self._tool = call_id, tool

    def grown(self, text: str) -> Iterator[OutputEvent]:
        yield "response.function_call_arguments.delta", {**self._at, "delta": text}

    def closed(self, text: str, *, is_whole: bool) -> Iterator[OutputEvent]:
        done = {**self._at, "name": self._tool.name, "arguments": text}
        yield "response.function_call_arguments.done", done
        yield from super().closed(text, is_whole=is_whole)

    def shape(self, text: str, status: ItemStatus) -> dict[str, Any]:
        return {**self._called("function_call", status), "arguments": text}

    def _called(self, kind: str, status: ItemStatus) -> dict[str, Any]:
        named = {"call_id": self._call_id, **self._tool.named}
        return {"id": self.id, "type": kind, "status": status, **named}


class FreeTextItem(CallItem):
    """A call of a tool that takes free text."""

    prefix = "ctc"

    def __init__(self, number: int, suffix: str, call_id: str, tool: ClientTool) -> None:
        super().__init__(number, suffix, call_id, tool)
        self._input = FreeText()

    def grown(self, text: str) -> Iterator[OutputEvent]:
        yield from self._grown(self._input.feed(text))

    def closed(self, text: str, *, is_whole: bool) -> Iterator[OutputEvent]:
        if is_whole:
            yield from self._grown(self._input.finish(text))
        done = {**self._at, "input": self._input.text}
        yield "response.custom_tool_call_input.done", done
        yield from OutputItem.closed(self, text, is_whole=is_whole)

    def shape(self, text: str, status: ItemStatus) -> dict[str, Any]:
        return {**self._called("custom_tool_call", status), "input": self._input.text}

    def _grown(self, added: str) -> Iterator[OutputEvent]:
        if added:
            yield "response.custom_tool_call_input.delta", {**self._at, "delta": added}


def item_of(
    part: AnswerPart,
    suffix: str,
    tool: ClientTool,
    *,
    has_summary: bool,
    seal: Callable[[str], str] | None,
) -> OutputItem:
    """The item of a part of an answer."""
    match part.kind:
        case "text":
            return MessageItem(part.number, suffix)
        case "reasoning":
            kind = SummaryItem if has_summary else ReasoningItem
            return kind(part.number, suffix, seal)
        case "call":
            called = FreeTextItem if tool.takes_text else CallItem
            return called(part.number, suffix, part.call_id, tool)
