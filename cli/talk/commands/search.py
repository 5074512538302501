"""Commands that find what was said in kept conversations, and go there."""

from typing import TYPE_CHECKING

from cli.talk.commands.command import Command, whole
from cli.talk.resuming import resume
from dsv4_mlx.chat.events import TextDelta
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from rich.text import Text

    from cli.kept.session_search import Found, Hit
    from cli.talk.chat import Chat

_MOST_LINES = 20


def _search(chat: "Chat", text: str) -> None:
    from cli.kept.session_search import search

    if not text:
        raise UsageError("/search takes words, for example /search blue sky.")
    found = search(chat.keeping.require(), text, chat.is_stopped)
    chat.found = found.hits
    if not found.hits:
        chat.note(f"no turn that is kept has {'all of ' if len(text.split()) > 1 else ''}{text}")
    for number, hit in enumerate(found.hits, start=1):
        chat.surface.show(_drawn(number, hit))
    for sentence in _left_out(found):
        chat.note(sentence)


def _drawn(number: int, hit: "Hit") -> "Text":
    from rich.text import Text

    one = hit.summary
    name = one.name or one.title or one.id
    lines = [Text(f"{number:>2}  {one.changed:%Y-%m-%d %H:%M}  {name}  turn {hit.number}")]
    for excerpt in hit.excerpts:
        line = Text(f"    {excerpt.speaker}: ")
        for piece, is_word in excerpt.pieces:
            line.append(piece, "bold underline" if is_word else "")
        lines.append(line)
    return Text("\n").join(lines)


def _left_out(found: "Found") -> list[str]:
    sentences = []
    if found.hits:
        sentences.append("/found N opens one")
    if found.more:
        sentences.append(f"{found.more:,} older turns have these words too; add another word")
    if found.unreadable:
        sentences.append(f"passed over what cannot be read: {found.unreadable:,} of /sessions")
    if found.unread:
        sentences.append(f"not searched, there was too much: the {found.unread:,} oldest")
    return sentences


def _found(chat: "Chat", argument: str) -> None:
    if not chat.found:
        raise UsageError("there is nothing found to open; /search TEXT looks for it.")
    number = whole(argument, "found")
    if number > len(chat.found):
        raise UsageError(f"there is no {number}; the last search found {len(chat.found)}.")
    hit = chat.found[number - 1]
    if not _switched(chat, hit.summary.id):
        resume(chat, hit.summary.id)
    turns = chat.branch.turns
    if hit.number > len(turns):
        chat.note("the turn that was found is there no longer")
        return
    _show(chat, turns[hit.number - 1])
    chat.note(
        f"turn {hit.number} of {len(turns)}; the conversation goes on after its end, and "
        f"/edit {hit.number} takes this up again"
    )


def _switched(chat: "Chat", id: str) -> bool:
    """Whether the conversation is open already, here or in another branch, which goes on now."""
    for branch in chat.branches:
        if branch.log is not None and branch.log.id == id:
            chat.branches.go_to(branch)
            return True
    return False


def _show(chat: "Chat", turn: Turn) -> None:
    question = turn.text.split("\n")
    chat.print_lines([f"> {question[0]}", *question[1:]], at_most=_MOST_LINES)
    for message in turn.messages[1:]:
        if message["role"] != "assistant":
            continue
        chat.view.begin()
        try:
            if message.get("content"):
                chat.view.feed(TextDelta(message["content"]))
            for call in message.get("tool_calls") or ():
                function = call["function"]
                chat.view.feed(ToolCall(function["name"], str(function["arguments"])))
        finally:
            chat.view.end()


COMMANDS = (
    Command("search", "TEXT", "find turns with these words in all conversations", _search),
    Command(
        "found",
        "N",
        "open one of the last search, at its turn",
        _found,
        lambda chat: [str(number) for number in range(1, len(chat.found) + 1)],
    ),
)
