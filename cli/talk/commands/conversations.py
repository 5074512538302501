"""Commands about conversations and the files that keep them."""

from typing import TYPE_CHECKING

from cli.kept.branch import Branch
from cli.kept.session_times import NEVER
from cli.show.surface import Question
from cli.talk.commands.command import Command, size
from cli.talk.resuming import resume
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.paths import user_path

if TYPE_CHECKING:
    from cli.kept.sessions import Summary
    from cli.talk.chat import Chat


def _new(chat: "Chat", argument: str) -> None:
    chat.begin(Branch("main"))
    chat.note("new conversation")


def _sessions(chat: "Chat", argument: str) -> None:
    lines = [_line(one) for one in chat.keeping.require().summaries()]
    chat.print_lines(lines or ["no conversation is kept yet"])


def _line(one: "Summary") -> str:
    cache = "" if one.kv_bytes is None else f"  cache {size(one.kv_bytes)}"
    turns = f"{one.turns} turn{'' if one.turns == 1 else 's'}"
    rest = one.problem or f"{turns}{cache}  {one.title}"
    # A file that is no session may tell no time.
    when = "" if one.changed == NEVER else f"  {one.changed:%Y-%m-%d %H:%M}"
    return f"{one.name or one.id}{when}  {rest}"


def _names(chat: "Chat") -> list[str]:
    if not chat.keeping.is_on:
        return []
    return [one.name or one.id for one in chat.keeping.require().summaries()]


def _load(chat: "Chat", name: str) -> None:
    if not name:
        raise UsageError("/load takes a name or an id; /sessions lists them.")
    resume(chat, name)


def _save(chat: "Chat", name: str) -> None:
    chat.keeping.require()
    if not chat.branch.turns:
        raise UsageError("there is nothing to keep yet; send a message first.")
    log = chat.open_log()
    assert log is not None
    if name:
        log.rename(name)
    chat.keeping.save_cache(chat.branch)
    chat.note(f"kept as {log.name or log.id}")


def _rename(chat: "Chat", name: str) -> None:
    if not name:
        raise UsageError("/rename takes the new name.")
    chat.keeping.require()
    log = chat.open_log()
    assert log is not None
    log.rename(name)
    chat.note(f"named {log.name}")


def _export(chat: "Chat", file: str) -> None:
    from cli.kept import export

    if not file:
        raise UsageError("/export takes a file that ends in .md, .json or .html.")
    path = chat.folder / user_path(file)
    exists = path.exists()
    if exists and chat.surface.ask(Question(f"{path} exists; replace it?")) != "y":
        chat.note("not written")
        return
    log = chat.branch.log
    title = (log.name if log else None) or "Conversation"
    messages, files = chat.branch.messages(chat.preferences.system), chat.keeping.files
    export.write(path, messages, title=title, overwrite=exists, files=files)
    chat.note(f"wrote {path}")


COMMANDS = (
    Command("new", "", "begin a new conversation; this one is kept", _new),
    Command("sessions", "", "list the conversations that are kept", _sessions),
    Command("load", "NAME", "go on with one of them", _load, _names),
    Command("save", "[NAME]", "keep the cache now, and name the conversation", _save),
    Command("rename", "NAME", "name the conversation", _rename),
    Command("export", "FILE", "write it as .md, .json or .html", _export),
)
