"""The timelines of one run, one of which goes on, and the files that keep them."""

from collections.abc import Iterator
from typing import Any

from cli.kept.branch import Branch
from cli.kept.keeping import Keeping
from cli.kept.session_log import SessionLog

Settings = dict[str, Any]
"""How a conversation is led, as its file keeps it."""


class Branches:
    """Begins with an empty timeline; `keeping` writes all of them."""

    def __init__(self, keeping: Keeping) -> None:
        self.keeping = keeping
        self.current = Branch("main")
        """The one that goes on."""
        self._all = [self.current]

    def __iter__(self) -> Iterator[Branch]:
        return iter(self._all)

    @property
    def names(self) -> list[str]:
        """Their names, the oldest first."""
        return [branch.name for branch in self._all]

    def go_to(self, branch: Branch) -> None:
        """Go on with another one of them."""
        self.current, branch.editing = branch, None

    def fork(self, branch: Branch) -> None:
        """Go on with `branch`, one more, as far as its conversation has come by now."""
        self.keeping.write(branch.keep)
        self._all.append(branch)
        self.go_to(branch)

    def begin(self, branch: Branch, settings: Settings) -> None:
        """Close all of them, each kept, and go on with `branch` alone."""
        self.close(settings)
        self._all, self.current = [branch], branch

    def close(self, settings: Settings) -> None:
        """Let other programs open the files, with all that belongs there in them."""
        for branch in self._all:
            self.keeping.close(branch, settings)

    def release(self) -> None:
        """Let go of the model: the turns of each stay, without the tokens that only it reads."""
        for branch in self._all:
            branch.release()

    def reopen(self) -> None:
        """Let go of conversations whose model is gone, and keep their turns as they are."""
        for branch in self._all:
            self.keeping.write(branch.keep)
            branch.conversation = None

    def open_log(self, model: str, settings: Settings) -> SessionLog | None:
        """The file of the current one, begun now if there was none; None where nothing is kept."""
        return self.keeping.log(self.current, model, settings)

    def log_beside(
        self, parent: Branch, name: str | None, model: str, settings: Settings
    ) -> SessionLog | None:
        """A new file for a copy of `parent`; None where that has none. UsageError for a `name` that
        another conversation has."""
        if parent.log is None:
            return None
        log = self.keeping.require().create(model, name=name, parent=parent.log.id)
        log.settings(settings)
        return log
