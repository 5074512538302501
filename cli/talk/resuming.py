"""Going on with a kept conversation at the prompt."""

from typing import TYPE_CHECKING

from cli.kept.branch import Branch, count_turns
from cli.options import Options
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.kept.sessions import Saved
    from cli.talk.chat import Chat


def resume(chat: "Chat", name: str, given: Options | None = None) -> None:
    """Go on with a kept conversation; "" is the newest. UsageError if there is none.

    What a command line gives stands before what the conversation keeps.
    """
    store = chat.keeping.require()
    found = store.find(name)
    if chat.branch.log is not None and chat.branch.log.id == found.id:
        raise UsageError(f"{found.name or found.id} is the conversation that is open.")
    log, saved = store.open(found)
    turns, foreign = saved.turns, saved.model != chat.model.place
    if foreign:
        turns = tuple(turn.without_tokens() for turn in turns)
    chat.begin(Branch(log.name or "main", None, log, turns, foreign))
    chat.lead(lambda preferences: preferences.kept(saved.settings).given(given or Options()))
    _tell(chat, saved, f"{log.name or log.id}: {count_turns(turns)}")


def _tell(chat: "Chat", saved: "Saved", sentence: str) -> None:
    for note in saved.notes:
        chat.note(note)
    chat.note(sentence)
    if saved.unanswered is not None:
        chat.note("the last message had no answer yet; it is in the input again")
        chat.surface.prefill(saved.unanswered)
