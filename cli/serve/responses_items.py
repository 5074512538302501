"""Items of OpenAI's responses, in the words of the encoder.

Reasoning, texts and calls that follow one another are one reply. Ids, states and metadata of items
leave no trace. Reasoning that was sealed here comes back as it was said; what another model's
servers sealed is not there to be read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cli.serve.faults import RequestFault
from cli.serve.reading import NO_IMAGES, instead_of, invalid
from cli.serve.responses_kept import ResponseItem
from cli.serve.responses_tools import INPUT, flat_name
from cli.serve.sealing import Seals
from dsv4_mlx.files.documents import shown

_TEXTS: Final = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
_ROLES: Final = ("user", "assistant", "system", "developer")


class ItemReader:
    """Reads items one after the other into `messages`."""

    def __init__(
        self,
        seals: Seals,
        owner: str,
        item_of: Callable[[str], ResponseItem | None] = lambda name: None,
    ) -> None:
        """`item_of` gives the item of an earlier response by its id."""
        self.messages: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        """Types of items that are of no use here."""
        self._seals, self._owner, self._item_of = seals, owner, item_of
        self._reply: dict[str, Any] | None = None

    def read(self, items: Sequence[ResponseItem], where: str = "input") -> None:
        """Read `items`; RequestFault names one that cannot be read."""
        for place, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise invalid(f"{where}[{place}]", "an object", item)
            self._read(item, f"{where}[{place}]")

    def _read(self, item: ResponseItem, where: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "function_call":
                self._call(item, _text(item, "arguments", where) or "{}", where)
            case "custom_tool_call":
                self._call(item, {INPUT: _text(item, INPUT, where)}, where)
            case "function_call_output" | "custom_tool_call_output":
                text = "\n\n".join(_texts(item.get("output"), f"{where}.output", is_shown=False))
                name = _required(item, "call_id", where)
                self._say({"role": "tool", "tool_call_id": name, "content": text})
            case "item_reference":
                self._reference(_required(item, "id", where), where)
            case str(kind):
                self.left_out.append(kind)
            case kind:
                raise invalid(f"{where}.type", "the type of an item", kind)

    def _say(self, message: dict[str, Any]) -> None:
        self._reply = None
        self.messages.append(message)

    def _message(self, item: ResponseItem, where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise invalid(f"{where}.role", ", ".join(_ROLES), role)
        texts = _texts(item.get("content"), f"{where}.content")
        if role == "assistant":
            reply = self._open_reply()
            reply["content"] += "".join(texts)
        else:
            role = "user" if role == "user" else "system"
            self._say({"role": role, "content": "\n\n".join(filter(None, texts))})

    def _open_reply(self) -> dict[str, Any]:
        if self._reply is None:
            self._reply = {"role": "assistant", "content": ""}
            self.messages.append(self._reply)
        return self._reply

    def _reasoning(self, item: ResponseItem, where: str) -> None:
        said = self._reply
        if said is not None and (said["content"] or "tool_calls" in said):
            self._reply = None  # the next reply begins with it
        sealed = item.get("encrypted_content")
        text = self._seals.opened(self._owner, sealed)
        if text is None:
            # A summary of what is sealed elsewhere is not what was thought.
            name = "content" if item.get("content") or sealed else "summary"
            text = "".join(_texts(item.get(name), f"{where}.{name}"))
        if text:
            reply = self._open_reply()
            reply["reasoning_content"] = reply.get("reasoning_content", "") + text

    def _call(self, item: ResponseItem, arguments: str | dict[str, str], where: str) -> None:
        name, group = _required(item, "name", where), _text(item, "namespace", where)
        call = {
            "type": "function",
            "id": _required(item, "call_id", where),
            "function": {"name": flat_name(name, group), "arguments": arguments},
        }
        self._open_reply().setdefault("tool_calls", []).append(call)

    def _reference(self, name: str, where: str) -> None:
        item = self._item_of(name)
        if item is None or item.get("type") == "item_reference":
            raise RequestFault(
                "invalid", f"{where}: no item {shown(name)} is kept here; send it whole.", where
            )
        self._read(item, where)


def _text(item: ResponseItem, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str | None):
        raise invalid(f"{where}.{name}", "a text", value)
    return value or ""


def _required(item: ResponseItem, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"{where}.{name}", "a text", value)
    return value


def _texts(content: object, where: str, *, is_shown: bool = True) -> list[str]:
    """The texts of a content, which is one or a list of parts. An image that a person shows is a
    fault; of one that a tool gave, which would be in every later request too, the model is told."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise invalid(where, "a text or a list of parts", content)
    texts = []
    for place, part in enumerate(content):
        at = f"{where}[{place}]"
        if not isinstance(part, Mapping):
            raise invalid(at, "a part, an object with a type", part)
        kind = part.get("type")
        if kind in _TEXTS:
            texts.append(_text(part, "text", at))
        elif kind == "refusal":
            texts.append(_text(part, "refusal", at))
        elif is_shown:
            raise RequestFault("invalid", f"{at} is {shown(kind)}; {NO_IMAGES}.", at)
        else:
            texts.append(instead_of(kind))
    return texts
