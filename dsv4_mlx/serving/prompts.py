"""From a request to the tokens of its prompt, with what was said in the tokens it was said in."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.prompting import PromptWriter
from dsv4_mlx.chat.turns import TokenIds
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.messages import cleaned
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.said import SaidMemory, said_before

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer

_WRITERS: Final = 16
"""Conversations whose text is not encoded again."""

_Messages = list[dict[str, Any]]


class Prompts:
    """Writes prompts on any threads at once, without the model: however long a text is, nobody
    waits until it is encoded but who sent it."""

    def __init__(self, tokenizer: "Tokenizer", effort_table: EffortTable, said: SaidMemory) -> None:
        self.tokenizer, self._effort_table, self._said = tokenizer, effort_table, said
        self._writers: OrderedDict[str, PromptWriter] = OrderedDict()
        self._choosing = Lock()

    def write(self, request: GenerationRequest) -> ServedPrompt:
        """The prompt of `request`; ChatError for messages that none can be made of."""
        if request.text is not None:
            tokens = self.tokenizer.encode(request.text)
            return ServedPrompt((self.tokenizer.bos_id, *tokens), goes_on=True)
        messages = self.messages(request)
        thinking = request.settings.effective_thinking
        goes_on = messages[-1]["role"] == "assistant"
        if goes_on:
            messages[-1] = {**messages[-1], "wo_eos": True}
        prompt = encode_messages(
            messages,
            thinking_mode=thinking.mode,
            reasoning_effort=thinking.effort,
            effort_table=self._effort_table,
        )
        said = list(self._said_in(messages, request.owner))
        with self._choosing:
            writer = self._writer(messages, request.owner)
        written = writer.tokens(prompt, said)
        has_beginning = messages[0]["role"] == "system" and written.boundaries
        return ServedPrompt(
            tuple(written.tokens),
            tuple(written.boundaries),
            tuple(written.boundaries[:1]) if has_beginning else (),
            goes_on,
            said_before(messages),
        )

    def count(self, request: GenerationRequest) -> int:
        """How many tokens the prompt of `request` has."""
        return len(self.write(request).tokens)

    @staticmethod
    def messages(request: GenerationRequest) -> _Messages:
        """The messages of `request` as they are written, tools and format in the first."""
        messages = cleaned(request.messages)
        settings = request.settings
        system, *_ = [*settings.system_messages(), {"role": "system", "content": ""}]
        if messages and messages[0]["role"] == "system":
            texts = (system["content"], messages.pop(0)["content"])
            system = {**system, "content": "\n\n".join(filter(None, texts))}
        if request.answer_format.kind == "schema":
            system["response_format"] = dict(request.answer_format.schema)
        if not messages:
            raise ChatError("messages must hold a message that can be answered, got none.")
        return [system, *messages] if len(system) > 2 or system["content"] else messages

    def _said_in(self, messages: _Messages, owner: str) -> Iterator[tuple[TokenIds, TokenIds]]:
        """Thought and answer for each reply that the encoder begins, in their order."""
        for place, message in enumerate(messages):
            if message["role"] not in ("user", "tool"):
                continue
            following = messages[place + 1]["role"] if place + 1 < len(messages) else None
            if following in ("user", "tool"):
                continue  # one turn with this message
            if following != "assistant":
                yield (), ()
                continue
            found = None
            if place + 2 < len(messages):  # an answer that is gone on with is text
                before = said_before(messages[: place + 1])
                found = self._said.find(owner, messages[place + 1], before)
            yield ((), ()) if found is None else (found.thought, found.answer)

    def _writer(self, messages: Sequence[Mapping[str, Any]], owner: str) -> PromptWriter:
        """What wrote the last prompt of this conversation, as its first message tells it."""
        first = next((m for m in messages if m["role"] != "system"), {})
        key = f"{owner} {said_before([first])}"
        writer = self._writers.pop(key, None)
        if writer is None:
            newest = next(reversed(self._writers.values()), None)
            writer = (
                PromptWriter(self.tokenizer, self._effort_table)
                if newest is None
                else newest.fork()
            )
        self._writers[key] = writer
        if len(self._writers) > _WRITERS:
            self._writers.popitem(last=False)
        return writer
