"""What was said, so that a client's account of it is read as the tokens it was generated as.

Clients return replies as text, and not quite as they got them: arguments of calls are serialised
anew, reasoning is trimmed or left out, white space at ends is lost, nothing is written as null or
as "". A reply is found by the ids of its calls, else by its text, both compared after such changes
are taken out; one that says something else than was said is the client's own and is read as text.
Reasoning that is left out is given back, since the model goes on from it.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from dsv4_mlx.chat.turns import TokenIds
from dsv4_mlx.files.documents import DocumentError, parse_json

MOST_TOKENS: Final = 8_000_000
"""Tokens that a memory holds before it forgets what was not asked for longest."""


@dataclass(frozen=True)
class SaidReply:
    """A reply: tokens of its reasoning and of what followed, and what they say, compared."""

    thought: TokenIds
    answer: TokenIds
    reasoning: str
    visible: str
    before: str
    """What was answered, as `said_before` tells it apart."""
    call_ids: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.thought) + len(self.answer)


class SaidMemory:
    """Replies of every owner; for all threads."""

    def __init__(self, most_tokens: int = MOST_TOKENS) -> None:
        self._most_tokens, self._tokens = most_tokens, 0
        self._lock = Lock()
        self._replies: OrderedDict[tuple[str, SaidReply], None] = OrderedDict()
        self._by_id: dict[tuple[str, str], SaidReply] = {}
        self._by_text: dict[tuple[str, str], list[SaidReply]] = {}

    def __len__(self) -> int:
        return len(self._replies)

    def __iter__(self) -> Iterator[tuple[str, SaidReply]]:
        """Owners and replies, what was asked for longest ago first."""
        return iter(list(self._replies))

    def remember(self, owner: str, reply: SaidReply) -> None:
        """Keep `reply`; what was asked for longest ago goes when there is too much."""
        with self._lock:
            if (owner, reply) in self._replies:
                self._replies.move_to_end((owner, reply))
                return
            self._replies[owner, reply] = None
            self._tokens += reply.tokens
            for name in reply.call_ids:
                self._by_id[owner, name] = reply
            self._by_text.setdefault((owner, reply.visible), []).append(reply)
            while self._tokens > self._most_tokens and self._replies:
                self._forget_oldest()

    def find(self, owner: str, message: Mapping[str, Any], before: str) -> SaidReply | None:
        """The reply that an assistant's `message` tells of, None for what nobody said here.

        Where the same text was said more than once, the one that answered the same.
        """
        visible, reasoning = visible_of(message), normal(message.get("reasoning_content"))
        with self._lock:
            ids = [str(call.get("id") or "") for call in message.get("tool_calls") or ()]
            by_id = [self._by_id[owner, name] for name in ids if (owner, name) in self._by_id]
            fitting = [
                reply
                for reply in (*by_id, *self._by_text.get((owner, visible), ()))
                if reply.visible == visible and reasoning in ("", reply.reasoning)
            ]
            found = _chosen(fitting, bool(by_id), before)
            if found is not None and (owner, found) in self._replies:
                self._replies.move_to_end((owner, found))
            return found

    def _forget_oldest(self) -> None:
        (owner, reply), _ = self._replies.popitem(last=False)
        self._tokens -= reply.tokens
        for name in reply.call_ids:
            self._by_id.pop((owner, name), None)
        same = self._by_text[owner, reply.visible]
        same.remove(reply)
        if not same:
            del self._by_text[owner, reply.visible]


def _chosen(fitting: Sequence[SaidReply], is_by_id: bool, before: str) -> SaidReply | None:
    """Of replies that say the same the one that is meant; None where that is not clear."""
    if not fitting:
        return None
    if is_by_id:
        return fitting[0]
    same = [reply for reply in fitting if reply.before == before]
    if same:
        return same[-1]
    kinds = {(reply.thought, reply.answer) for reply in fitting}
    return fitting[-1] if len(kinds) == 1 else None


def said_reply(
    message: Mapping[str, Any], thought: TokenIds, answer: TokenIds, before: str
) -> SaidReply:
    """A finished reply, for `SaidMemory.remember`."""
    calls = message.get("tool_calls") or ()
    return SaidReply(
        tuple(thought),
        tuple(answer),
        normal(message.get("reasoning_content")),
        visible_of(message),
        before,
        tuple(str(call["id"]) for call in calls if call.get("id")),
    )


def said_before(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the last of `messages` ask, as a digest: all since the last reply, in any order, but
    what stands before the conversation."""
    asked: list[str] = []
    for message in reversed(messages):
        if message.get("role") == "assistant":
            break
        if message.get("role") == "system":
            continue
        asked.append(f"{message.get('role')} {normal(message.get('content'))}")
    return _digest(*sorted(asked))


def normal(text: object) -> str:
    """A text without what clients change: white space at its ends, line ends of other systems."""
    return text.replace("\r\n", "\n").strip() if isinstance(text, str) else ""


def visible_of(message: Mapping[str, Any]) -> str:
    """What an assistant's message shows, text and calls, as a digest."""
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    shown = [f"{call.get('name')} {_arguments(call.get('arguments'))}" for call in calls]
    return _digest(normal(message.get("content")), *shown)


def _arguments(value: object) -> str:
    """Arguments in one spelling, whatever serialised them."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except DocumentError:
            return normal(value)
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """JSON data in which 1.0 is 1, as some programs write it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _digest(*texts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
