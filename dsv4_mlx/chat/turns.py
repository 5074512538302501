"""One user turn of a dialogue: the question, and all that was said until the next question.

The replies are kept as the tokens that were generated too: encoding their text again could split
it differently, and then nothing of the cache would fit the next prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.messages import ChatError

TokenIds = tuple[int, ...]
_TOO_LONG = "The tool ran, and what it said is longer than the context holds; ask for less of it."


@dataclass(frozen=True)
class Turn:
    """OpenAI-style messages: user, assistant, and after tool calls tool, ..., assistant again.

    `answers` and `thoughts` hold, for each assistant message, the tokens of the answer and of the
    reasoning as generated. An empty or missing one stands for the tokens of the message's text.
    """

    messages: tuple[dict[str, Any], ...]
    answers: tuple[TokenIds, ...] = ()
    thoughts: tuple[TokenIds, ...] = ()

    @classmethod
    def asking(cls, text: str) -> "Turn":
        """A turn that waits for its first answer."""
        return cls(({"role": "user", "content": text},))

    @property
    def text(self) -> str:
        """What the user wrote."""
        return str(self.messages[0]["content"])

    @property
    def question(self) -> "Turn":
        """This turn without its answers."""
        return Turn(self.messages[:1])

    @property
    def waiting_calls(self) -> tuple[str, ...]:
        """Ids of the tool calls after which the model has not answered, whether or not the tools
        have."""
        calls = self._without_results[-1].get("tool_calls") or ()
        return tuple(str(call.get("id", "")) for call in calls)

    @property
    def ends_with_results(self) -> bool:
        """Whether tools have answered and the model has not."""
        return bool(self.messages[-1]["role"] == "tool")

    @property
    def _without_results(self) -> tuple[dict[str, Any], ...]:
        """The messages but for the results at their end."""
        messages = self.messages
        while messages[-1]["role"] == "tool":
            messages = messages[:-1]
        return messages

    def said(self) -> list[tuple[TokenIds, TokenIds]]:
        """Thought and answer of each assistant message, in their order."""
        count = sum(message["role"] == "assistant" for message in self.messages)
        return list(zip(_padded(self.thoughts, count), _padded(self.answers, count), strict=True))

    def answered(self, message: dict[str, Any], thought: TokenIds, answer: TokenIds) -> "Turn":
        """The turn with one more reply."""
        said = [*self.said(), (thought, answer)]
        return Turn((*self.messages, message), tuple(a for _, a in said), tuple(t for t, _ in said))

    def with_results(self, results: Sequence[tuple[str, str]]) -> "Turn":
        """The turn with the answers of its tools: (call id, text), in the place of earlier ones."""
        told = [{"role": "tool", "tool_call_id": call, "content": text} for call, text in results]
        return replace(self, messages=(*self._without_results, *told))

    def without_long_results(self) -> "Turn":
        """The turn whose results at the end say that they were too long."""
        told = self.messages[len(self._without_results) :]
        return self.with_results([(one["tool_call_id"], _TOO_LONG) for one in told])

    def without_tokens(self) -> "Turn":
        """This turn as texts alone, for another model, whose tokenizer splits them anew."""
        return Turn(self.messages)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data for `from_json`."""
        return {
            "messages": [dict(message) for message in self.messages],
            "answers": [list(tokens) for tokens in self.answers],
            "thoughts": [list(tokens) for tokens in self.thoughts],
        }

    @classmethod
    def from_json(cls, data: object) -> "Turn":
        """What `to_json` gave; ChatError for anything else."""
        if not isinstance(data, Mapping):
            raise ChatError(f"A turn must be a JSON object, got a {type(data).__name__}.")
        messages = _messages(data.get("messages"))
        count = sum(message["role"] == "assistant" for message in messages)
        answers = _token_lists(data.get("answers", []), "answers", count)
        return cls(messages, answers, _token_lists(data.get("thoughts", []), "thoughts", count))


_FOLLOWS = {"user": ("assistant",), "assistant": ("tool",), "tool": ("tool", "assistant")}


def _padded(lists: Sequence[TokenIds], count: int) -> list[TokenIds]:
    return [*lists[:count], *[()] * (count - len(lists))]


def _messages(found: object) -> tuple[dict[str, Any], ...]:
    """Messages of one turn that the encoder can write."""
    if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
        raise ChatError("The messages of a turn must be a list of JSON objects.")
    roles = [message.get("role") for message in found]
    if roles[:1] != ["user"] or not isinstance(found[0].get("content"), str):
        raise ChatError("A turn must begin with a user message whose content is text.")
    if not all(follow in _FOLLOWS.get(role, ()) for role, follow in pairwise(roles)):
        raise ChatError(f"A turn goes user, assistant, tool, assistant, ...; got {roles!r}.")
    encode_messages(found)
    return tuple(found)


def _token_lists(found: object, name: str, limit: int) -> tuple[TokenIds, ...]:
    if not isinstance(found, list) or len(found) > limit or not all(map(_are_tokens, found)):
        raise ChatError(
            f"The {name} of a turn must be lists of token ids, at most one for each of its "
            f"{limit} assistant messages."
        )
    return tuple(tuple(tokens) for tokens in found)


def _are_tokens(found: object) -> bool:
    # type(), since True is an int to isinstance.
    return isinstance(found, list) and all(type(token) is int and token >= 0 for token in found)
