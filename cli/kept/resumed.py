"""A kept conversation that a single message goes on with: `--continue -p TEXT`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from cli.kept.session_replay import SessionError
from cli.kept.sessions import SessionStore
from cli.options import Options
from cli.preferences import Preferences
from dsv4_mlx.chat.conversation import Conversation, Turn
from dsv4_mlx.errors import CacheError, UsageError

Note = Callable[[str], None]


class Resumed(AbstractContextManager["Resumed"]):
    """The conversation's file, open until the message is answered. `note` tells what to know."""

    def __init__(self, store: SessionStore, options: Options, note: Note) -> None:
        if not options.keep:
            raise UsageError("--no-save keeps nothing and --continue goes on; choose one of them.")
        self._store = store
        self._note = note
        self._log, self._saved = store.open(store.find(options.resume or ""))
        for sentence in self._saved.notes:
            note(f"[{sentence}]")

    def preferences(self, preferences: Preferences, options: Options) -> Preferences:
        """How the conversation was led; what a command line gives stands before it."""
        return preferences.kept(self._saved.settings).given(options)

    def turns(self, folder: Path) -> tuple[Turn, ...]:
        """What was said so far, for the model in `folder`."""
        if Path(self._saved.model) == folder:
            return self._saved.turns
        return tuple(turn.without_tokens() for turn in self._saved.turns)

    def begin(self, conversation: Conversation, text: str) -> None:
        """`text` is about to be sent."""
        self._keep(lambda: self._log.begin_turn(text))
        if self._log.kv_path.exists():
            self._cache("is not used", lambda: conversation.load_cache(self._log.kv_path))

    def end(self, conversation: Conversation) -> None:
        """Keep the answer as far as it came."""
        if len(conversation.turns) == len(self._saved.turns):
            return
        self._keep(lambda: self._log.add_turn(conversation.turns[-1]))
        if self._store.keeps_caches:
            self._cache("was not written", lambda: conversation.save_cache(self._log.kv_path))
            self._store.evict(keep=self._log)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._log.close()

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SessionError as error:
            self._note(f"[{error}]")

    def _cache(self, what: str, act: Callable[[], None]) -> None:
        """The cache only saves time, so what fails with it is told and nothing more."""
        try:
            act()
        except (CacheError, OSError) as error:
            self._note(f"[the conversation's cache {what}: {error}]")
