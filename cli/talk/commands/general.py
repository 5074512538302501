"""Commands about the program and the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.talk.commands.command import Command, size
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.hub_cache import snapshot_sentence
from dsv4_mlx.files.paths import user_path

if TYPE_CHECKING:
    from cli.talk.chat import Chat
    from dsv4_mlx.engine.expert_use import ExpertUse


def _quit(chat: "Chat", argument: str) -> None:
    chat.left = True


def _model(chat: "Chat", argument: str) -> None:
    if argument:
        _switch(chat, asked := user_path(argument))
        if taken := snapshot_sentence(asked, chat.model.folder):
            chat.note(taken)
    chat.note(f"model {chat.model.place if chat.model.is_remote else chat.model.folder}")
    if assumed := chat.model.assumed:
        chat.note(assumed)


def _switch(chat: "Chat", folder: Path) -> None:
    """Go on with another model; the dialogue stays and is read again."""

    def release() -> None:
        chat.branches.release()
        chat.model.close()

    def go_on_with(model: Path) -> None:
        chat.model = chat.models.open(model, release)
        chat.fit_preferences()

    previous = chat.model.folder
    go_on_with(folder)
    chat.show_status("loading the model")
    try:
        chat.model.wait(chat.stop)
    except BaseException:
        go_on_with(previous)
        raise


def _restart(chat: "Chat", argument: str) -> None:
    """Begin again with both ranks; the dialogue stays and is read again, or from its cache."""
    if chat.models.ranks is None:
        raise UsageError("the model runs in this program; /restart is for two Macs, see --hosts.")
    chat.branches.reopen()
    chat.model = chat.models.open(chat.model.folder)
    chat.show_status("starting both ranks")
    chat.model.wait(chat.stop)
    chat.note("both ranks run")


def _context(chat: "Chat", argument: str) -> None:
    use = chat.opened().context()
    parts = {"window": use.window_bytes, "compressed": use.compressed_bytes}
    parts["index"] = use.index_bytes
    split = ", ".join(f"{name} {size(count)}" for name, count in parts.items())
    if chat.model.is_remote:
        split = "what they take in memory is the server's"
    drafts = ""
    if use.drafts_know == 0:
        drafts = "; drafts begin cold"
    elif use.drafts_know is not None and use.drafts_know < use.used:
        drafts = f"; drafts know the last {use.drafts_know:,} tokens"
    chat.note(
        f"{use.used:,} of {use.limit:,} tokens; {split}{drafts}{_tables(use.table_reads)}"
        f"{_experts(use.experts)}"
    )


def _tables(reads: Mapping[str, int]) -> str:
    """What became of the rows that Engram wanted; nothing where its tables are in memory."""
    if not (total := sum(reads.get(kind, 0) for kind in ("kept", "ahead", "missed"))):
        return ""
    return (
        f"; of {total:,} rows of Engram's tables {reads['kept']:,} were kept, {reads['ahead']:,} "
        f"asked for ahead, {reads['missed']:,} waited for, {size(reads['bytes'])} read"
    )


def _experts(use: "ExpertUse | None") -> str:
    """What was found of the experts since the model was loaded; nothing where all are in memory."""
    if use is None:
        return ""
    text = f"; {use.slots} experts of each layer in memory"
    if use.hit_rate is None:
        return text
    return (
        f"{text}: of {use.hits + use.misses:,} that were wanted {use.hit_rate:.0%} were there, "
        f"{size(use.bytes_read)} read, waited {use.waited_s:.1f} s"
    )


COMMANDS = (
    Command("model", "[PATH]", "show or switch the model", _model),
    Command("context", "", "how full the context is, and with what", _context),
    Command("restart", "", "with --hosts: start both ranks again and go on", _restart),
    Command("quit", "", "leave (Ctrl-D does too)", _quit),
)
