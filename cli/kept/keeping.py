"""Keeping the branches of one run: what goes wrong with a file is said, and ends nothing."""

import os
from collections.abc import Callable
from typing import Any

from cli.kept.branch import Branch
from cli.kept.session_log import SessionLog, WriteError
from cli.kept.session_replay import SessionError
from cli.kept.sessions import SessionStore
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.files.file_systems import FileSystem


class Keeping:
    """Writes branches to `store`; None keeps nothing. `tell` shows what costs time, `fail` what is
    not kept."""

    def __init__(
        self,
        store: SessionStore | None,
        tell: Callable[[str], None],
        fail: Callable[[str], None],
    ) -> None:
        self._store = store
        self._tell = tell
        self._fail = fail
        self._cache_problem = ""
        self.files = FileSystem() if store is None else store.files
        """For all that this run writes; says what a disk lacks."""
        self.files.tell = tell

    def require(self) -> SessionStore:
        """The store; UsageError where nothing is kept."""
        if self._store is None:
            raise UsageError("nothing is kept in this run; start without --no-save.")
        return self._store

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._store is not None

    def log(self, branch: Branch, model: str, settings: dict[str, Any]) -> SessionLog | None:
        """The file of `branch`, begun now if there was none, with `settings` in it."""
        if branch.log is None and self._store is not None:
            branch.log = self._store.create(model)
        log = branch.log
        if log is not None:
            self.write(lambda: log.settings(settings))
        return log

    def write(self, action: Callable[[], None]) -> None:
        """Write to a conversation's file; on a full disk the conversation goes on all the same, and
        the next write that succeeds keeps what this one did not. It is said once."""
        try:
            action()
        except WriteError as error:
            if not error.again:
                self._fail(str(error))
        except SessionError as error:
            self._fail(str(error))

    def save_cache(self, branch: Branch) -> None:
        """Write the cache of `branch` beside its file; it only saves time."""
        if self._store is None or not self._store.keeps_caches:
            return
        if branch.log is None or branch.conversation is None or not branch.turns:
            return
        if not branch.log.is_open:  # what cannot be kept needs no cache
            return
        try:
            branch.conversation.save_cache(branch.log.kv_path)
            self._store.evict(keep=branch.log)
            self._cache_problem = ""
        except (Dsv4Error, OSError) as error:
            if self._cache_problem != str(error):
                self._tell(f"the cache was not kept and resuming will read again: {error}")
            self._cache_problem = str(error)

    def load_cache(self, branch: Branch) -> None:
        """Without a file that fits, the first message reads the conversation again."""
        log = branch.log
        if log is None or branch.conversation is None or not os.path.exists(log.kv_path):
            return
        try:
            branch.conversation.load_cache(log.kv_path)
        except (Dsv4Error, OSError) as error:
            self._tell(f"the kept cache is not used and the conversation is read again: {error}")

    def close(self, branch: Branch, settings: dict[str, Any]) -> None:
        """Let other programs open the branch's file, with all that belongs there in it."""
        log = branch.log
        if log is not None:
            self.write(lambda: log.settings(settings))
            self.save_cache(branch)
            log.close()
            branch.log = None
