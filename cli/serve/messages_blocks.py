"""Messages made of blocks, as Anthropic's interface has them, in the words of the encoder.

Results of tools become messages of their own in the order of the blocks. Thinking that was said
here comes back as its signature holds it, and any other as the text that it is; marks of what to
cache, citations and blocks of tools that a server runs leave no trace.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.serve.faults import RequestFault
from cli.serve.reading import NO_IMAGES, instead_of, invalid
from cli.serve.sealing import Seals
from dsv4_mlx.files.documents import shown

_Message = dict[str, Any]


def system_messages(system: object) -> list[_Message]:
    """The messages that stand before all others: one for each block."""
    texts = [system] if isinstance(system, str) else _texts(_blocks(system, "system"), "system")
    return [{"role": "system", "content": text} for text in texts if text]


def conversation(messages: object, seals: Seals, owner: str) -> list[_Message]:
    """The messages of a request; RequestFault names one that cannot be read."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "a list with a message in it", messages)
    read: list[_Message] = []
    for place, message in enumerate(messages):
        where = f"messages.{place}"
        if not isinstance(message, Mapping):
            raise invalid(where, "an object", message)
        role = message.get("role")
        blocks = _blocks(message.get("content"), f"{where}.content")
        match role:
            case "user":
                read += _user(blocks, f"{where}.content")
            case "assistant":
                read.append(_assistant(blocks, f"{where}.content", seals, owner))
            case "system" | "developer":
                text = "\n\n".join(_texts(blocks, f"{where}.content"))
                read.append({"role": "system", "content": text})
            case _:
                raise invalid(f"{where}.role", "user, assistant or system", role)
    return read


def _blocks(content: object, where: str) -> list[Mapping[str, Any]]:
    """The blocks of a content; text alone is one, and null is none."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise invalid(where, "a text or a list of blocks", content)
    for place, block in enumerate(content):
        if not isinstance(block, Mapping):
            raise invalid(f"{where}.{place}", "a block, an object with a type", block)
    return content


def _texts(blocks: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    return [_shown(block, f"{where}.{place}") for place, block in enumerate(blocks)]


def _text(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{where}.{name}", "a text", value)
    return value or ""


def _shown(block: Mapping[str, Any], where: str) -> str:
    """The text of a block that a person or a tool shows the model."""
    match block.get("type"):
        case "text":
            return _text(block, "text", where)
        case "document":
            return _document(block, where)
        case "search_result":
            found = _texts(_blocks(block.get("content"), where), where)
            head = [_text(block, name, where) for name in ("title", "source")]
            return "\n".join(filter(None, [*head, *found]))
        case kind:
            raise RequestFault("invalid", f"{where} is {shown(kind)}; {NO_IMAGES}.", where)


def _document(block: Mapping[str, Any], where: str) -> str:
    given = block.get("source")
    source = given if isinstance(given, Mapping) else {}
    kind = source.get("type")
    if kind == "text":
        text = _text(source, "data", f"{where}.source")
    elif kind == "content":
        text = "\n\n".join(_texts(_blocks(source.get("content"), where), where))
    else:
        raise RequestFault(
            "invalid", f"{where} is a document of the kind {shown(kind)}; {NO_IMAGES}.", where
        )
    head = [_text(block, name, where) for name in ("title", "context")]
    return "\n".join(filter(None, [*head, text]))


# Turns of users: texts and results


def _user(blocks: Sequence[Mapping[str, Any]], where: str) -> Iterator[_Message]:
    """Messages of a turn: neighbouring texts are one, each result is one."""
    texts: list[str] = []
    has_given = False
    for place, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            texts.append(_shown(block, f"{where}.{place}"))
            continue
        if any(texts):
            yield {"role": "user", "content": "\n\n".join(filter(None, texts))}
        texts, has_given = [], True
        yield _result(block, f"{where}.{place}")
    if any(texts) or not has_given:
        yield {"role": "user", "content": "\n\n".join(filter(None, texts))}


def _result(block: Mapping[str, Any], where: str) -> _Message:
    name = block.get("tool_use_id")
    if not isinstance(name, str):
        raise invalid(f"{where}.tool_use_id", "the id of a call", name)
    parts = _blocks(block.get("content"), f"{where}.content")
    text = "\n\n".join(filter(None, (_of_tool(part, f"{where}.content") for part in parts)))
    if block.get("is_error") is True and not text.lstrip().lower().startswith(("error", "<tool_")):
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": name, "content": text}


def _of_tool(block: Mapping[str, Any], where: str) -> str:
    """What a tool gave. An image that it gave would be in every later request too, so that the
    model is told in its place."""
    try:
        return _shown(block, where)
    except RequestFault:
        return instead_of(block.get("type"))


# Replies


def _assistant(
    blocks: Sequence[Mapping[str, Any]], where: str, seals: Seals, owner: str
) -> _Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[_Message] = []
    for place, block in enumerate(blocks):
        at = f"{where}.{place}"
        match block.get("type"):
            case "text":
                texts.append(_text(block, "text", at))
            case "thinking":
                sealed = seals.opened(owner, block.get("signature"))
                thoughts.append(_text(block, "thinking", at) if sealed is None else sealed)
            case "redacted_thinking":
                thoughts.append(seals.opened(owner, block.get("data")) or "")
            case "tool_use":
                calls.append(_call(block, at))
            case str():
                continue  # what another provider's servers did
            case kind:
                raise invalid(f"{at}.type", "the type of a block", kind)
    message: _Message = {"role": "assistant", "content": "".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    return {**message, "tool_calls": calls} if calls else message


def _call(block: Mapping[str, Any], where: str) -> _Message:
    name, arguments, call_id = (block.get(key) for key in ("name", "input", "id"))
    if not isinstance(name, str):
        raise invalid(f"{where}.name", "the name of a tool", name)
    if not isinstance(arguments, Mapping | None):
        raise invalid(f"{where}.input", "an object", arguments)
    if not isinstance(call_id, str):
        raise invalid(f"{where}.id", "the id of a call", call_id)
    function = {"name": name, "arguments": dict(arguments or {})}
    return {"type": "function", "id": call_id, "function": function}
