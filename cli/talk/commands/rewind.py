"""Commands that go back: the cache returns to a turn, and nothing that is kept is read again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.kept.branch import Branch, count_turns
from cli.talk.commands.command import Command, short
from dsv4_mlx.chat.compaction import stands_for
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.talk.chat import Chat


def _undo(chat: "Chat", argument: str) -> None:
    conversation = chat.opened()
    _check(conversation.turns[-1:])
    text = conversation.undo()
    chat.branch.editing = None
    chat.keeping.write(chat.branch.keep)
    chat.note(f"took back: {short(text)}")
    chat.surface.prefill(text)


def _retry(chat: "Chat", argument: str) -> None:
    conversation = chat.opened()
    if not conversation.turns:
        raise UsageError("there is no message to answer again; send one first.")
    _check(conversation.turns[-1:])
    chat.branch.editing = None
    chat.take_turn(conversation.turns[-1].text, conversation.retry)


def _edit(chat: "Chat", argument: str) -> None:
    conversation = chat.opened()
    count = len(conversation.turns)
    first, _, rest = argument.partition(" ")
    number, text = (int(first), rest.strip()) if first.isdecimal() else (count, argument)
    if not 1 <= number <= count:
        raise UsageError(f"there is no message {number} to edit; this conversation has {count}.")
    _check(conversation.turns[number - 1 : number])
    chat.branch.editing = number
    if text:
        chat.send(text)
        return
    chat.note(f"what you send next takes the place of message {number} and all after it")
    chat.surface.prefill(conversation.turns[number - 1].text)


def _check(turns: Sequence[Turn]) -> None:
    """UsageError for a summary: nobody asked it, and all before it would be lost with it."""
    if any(map(stands_for, turns)):
        raise UsageError(
            "that turn is the summary of what came before; /branches or /load goes back to all "
            "of it."
        )


def _fork(chat: "Chat", name: str) -> None:
    if not name:
        raise UsageError("/fork takes a name for the new branch, for example /fork idea.")
    if name in chat.branches.names:
        raise UsageError(f"there is a branch {name!r} already; choose another name.")
    parent = chat.branch
    branch = Branch(name, chat.opened().fork())
    whole = f"{parent.log.name}/{name}" if parent.log is not None and parent.log.name else name
    branch.log = chat.branches.log_beside(
        parent, whole, chat.model.place, chat.preferences.as_record()
    )
    chat.branches.fork(branch)
    chat.note(f"on branch {name}; /branches {parent.name} goes back")


def _branches(chat: "Chat", name: str) -> None:
    if name:
        found = next((branch for branch in chat.branches if branch.name == name), None)
        if found is None:
            raise UsageError(f"there is no branch {name!r}; /branches lists them.")
        chat.branches.go_to(found)
    chat.print_lines([_line(branch, branch is chat.branch) for branch in chat.branches])


def _line(branch: Branch, present: bool) -> str:
    last = f"  {short(branch.turns[-1].text)}" if branch.turns else ""
    return f"{'*' if present else ' '} {branch.name}  {count_turns(branch.turns)}{last}"


COMMANDS = (
    Command("undo", "", "take the last turn back", _undo),
    Command("retry", "", "answer the last message again", _retry),
    Command("edit", "[N] [TEXT]", "change the last message, or message N", _edit),
    Command("fork", "NAME", "go on in a copy of this conversation", _fork),
    Command(
        "branches",
        "[NAME]",
        "list the copies, or go to one",
        _branches,
        lambda chat: chat.branches.names,
    ),
)
