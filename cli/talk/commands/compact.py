"""/compact: the older turns give way to a summary, in a copy that goes on."""

from typing import TYPE_CHECKING

from cli.kept.branch import Branch
from cli.kept.session_summary import MOST_NAME, title_of
from cli.talk.commands.command import Command
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.kept.session_log import SessionLog
    from cli.talk.chat import Chat
    from dsv4_mlx.chat.compaction import Compacted

NEARLY_FULL = 0.8
"""Of the context; from there on a note says that there is /compact."""


def compact(chat: "Chat", hint: str) -> None:
    """Go on in a copy whose older turns are a summary; UsageError, and nothing changed, when there
    is too little to summarise or the model wrote none."""
    from dsv4_mlx.chat.compaction import Compaction, summary_title

    parent = chat.branch
    conversation = chat.opened()
    first = conversation.turns[0] if conversation.turns else None
    title = "" if first is None else summary_title(first) or title_of(first.text)
    compaction = Compaction(conversation.fork(), title=title, hint=hint)
    chat.note(f"summarising {compaction.older:,} of {len(conversation.turns):,} turns")
    while compaction.is_unfinished:
        chat.show(compaction.conversation, compaction.step(), "summarising")
    _go_on(chat, parent, compaction.result())


def _go_on(chat: "Chat", parent: Branch, compacted: "Compacted") -> None:
    name = _free("compact", chat.branches.names)
    chat.branches.fork(Branch(name, chat.conversation(compacted.turns), _log(chat, parent)))
    _rest(chat, parent)
    turns = "1 turn" if compacted.summarised == 1 else f"{compacted.summarised:,} turns"
    chat.note(
        f"{compacted.before:,} tokens became {compacted.after:,}: a summary stands for {turns}; "
        f"/branches {parent.name} goes back to all of it"
    )


def _rest(chat: "Chat", parent: Branch) -> None:
    """Give back the memory of what no longer goes on, where its file has all of it."""
    if parent.log is not None and parent.logged == parent.turns:
        chat.keeping.save_cache(parent)
        parent.conversation = None


def _log(chat: "Chat", parent: Branch) -> "SessionLog | None":
    """The file of the copy; one whose parent has no name has none either."""
    if parent.log is None:
        return None
    number, place, settings = 1, chat.model.place, chat.preferences.as_record()
    name = f"{parent.log.name}/compact" if parent.log.name else None
    while True:
        called = name if number == 1 or name is None else f"{name}-{number}"
        if called is not None and len(called) > MOST_NAME:
            called = None
        try:
            return chat.branches.log_beside(parent, called, place, settings)
        except UsageError:  # another conversation is called so
            number += 1


def _free(name: str, taken: list[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def look_at_fullness(chat: "Chat") -> None:
    """Behind an answer: say once that the context is nearly full, or compact where that is set."""
    branch = chat.branch
    if branch.conversation is None:
        return
    use = branch.conversation.context()
    if use.used < NEARLY_FULL * use.limit:
        branch.told_full = False
    elif not branch.told_full:
        branch.told_full = True
        share = f"the context is {100 * use.used // use.limit} % full"
        if chat.auto_compact:
            chat.note(share)
            compact(chat, "")
        else:
            chat.note(f"{share}; /compact makes room")


COMMANDS = (Command("compact", "[HINT]", "go on with a summary of the older turns", compact),)
