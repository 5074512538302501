"""A kept conversation that a single message goes on with: `--continue -p TEXT`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from cli.kept.branch import Branch
from cli.kept.keeping import Keeping
from cli.kept.sessions import SessionStore
from cli.options import Options
from cli.preferences import Preferences
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from dsv4_mlx.chat.conversation import Conversation

Note = Callable[[str], None]


class Resumed(AbstractContextManager["Resumed"]):
    """The conversation's file, open until the message is answered. `note` tells what to know."""

    def __init__(self, store: SessionStore, options: Options, note: Note) -> None:
        if not options.keep:
            raise UsageError("--no-save keeps nothing and --continue goes on; choose one of them.")

        def tell(sentence: str) -> None:
            note(f"[{sentence}]")

        self._keeping = Keeping(store, tell, tell)
        self._log, self._saved = store.open(store.find(options.resume or ""))
        self._branch = Branch("main", log=self._log)
        for sentence in self._saved.notes:
            tell(sentence)

    def preferences(self, preferences: Preferences, options: Options) -> Preferences:
        """How the conversation was led; what a command line gives stands before it."""
        return preferences.kept(self._saved.settings).given(options)

    def turns(self, place: str) -> tuple[Turn, ...]:
        """What was said so far, for the model in this place."""
        turns = self._saved.turns
        self._branch.foreign = self._saved.model != place
        if self._branch.foreign:
            turns = tuple(turn.without_tokens() for turn in turns)
        self._branch.logged = turns
        return turns

    def begin(self, conversation: "Conversation", text: str) -> None:
        """`text` is about to be sent."""
        self._branch.conversation = conversation
        self._keeping.write(lambda: self._log.begin_turn(text))
        self._keeping.load_cache(self._branch)

    def end(self, conversation: "Conversation") -> None:
        """Keep the answer as far as it came."""
        if len(conversation.turns) > len(self._saved.turns):
            self._keeping.write(self._branch.keep)
            self._keeping.save_cache(self._branch)

    def __exit__(self, *_: object) -> None:
        self._log.close()
