"""What Tab offers: commands, their arguments, and paths after an @."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from cli.safe import harmless

_MOST = 200
"""Candidates that are offered; a person types on rather than reading more."""
_ATTACHED = re.compile(r'(?:^|(?<=\s))@(?:"(?P<quoted>[^"\n]*)|(?P<bare>[^\s"]*))\Z')
_LAST_WORD = re.compile(r"\S*\Z")


@dataclass(frozen=True)
class Completions:
    """What is offered at a prompt."""

    commands: Mapping[str, str] = field(default_factory=dict)
    """Names without the slash, each with one line of help."""
    folder: Path = field(default_factory=Path)
    """Where paths begin."""


class PromptCompleter(Completer):
    """Completes the input of a prompt."""

    def __init__(
        self,
        completions: Completions,
        arguments: Callable[[str, str], Sequence[str]] = lambda command, typed: (),
    ) -> None:
        """`arguments` as in `Hooks`."""
        self._completions = completions
        self._arguments_of = arguments

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Candidates for what stands before the cursor."""
        before = document.text_before_cursor
        attached = _ATTACHED.search(before)
        if attached is not None:
            yield from self._attachments(attached)
        elif before.startswith("/") and "\n" not in before:
            yield from self._commands(before[1:])
        elif before.startswith("!") and complete_event.completion_requested:
            yield from self._words(before[1:])

    def _commands(self, typed: str) -> Iterator[Completion]:
        name, space, argument = typed.partition(" ")
        if space:
            yield from self._arguments(name, argument)
            return
        for command, help_line in sorted(self._completions.commands.items()):
            if command.startswith(name):
                yield Completion(
                    command,
                    start_position=-len(name),
                    display=f"/{command}",
                    display_meta=harmless(help_line),
                )

    def _arguments(self, command: str, typed: str) -> Iterator[Completion]:
        candidates = self._arguments_of(command, typed)
        fitting = [one for one in candidates if one.startswith(typed) and one != typed]
        for one in fitting[:_MOST]:
            yield Completion(one, start_position=-len(typed), display=harmless(one))

    def _attachments(self, found: "re.Match[str]") -> Iterator[Completion]:
        quoted = found["quoted"]
        typed = found["bare"] if quoted is None else quoted
        for path in paths(typed, self._completions.folder):
            needs_quotes = quoted is not None or any(character.isspace() for character in path)
            text = f'"{path}' if needs_quotes else path
            if needs_quotes and not path.endswith("/"):
                text += '"'
            start = len(typed) + (quoted is not None)
            yield Completion(text, start_position=-start, display=harmless(_short(path)))

    def _words(self, typed: str) -> Iterator[Completion]:
        """Paths for the last word of a shell command."""
        match = _LAST_WORD.search(typed)
        word = match.group() if match else ""
        for path in paths(word, self._completions.folder):
            if not any(character.isspace() for character in path):
                yield Completion(path, start_position=-len(word), display=harmless(_short(path)))


def paths(typed: str, folder: Path) -> list[str]:
    """Paths that `typed` may become, folders with a slash at their end, spelled as `typed` begins.

    Names that begin with a dot are offered once a dot is typed.
    """
    head, slash, begun = typed.rpartition("/")
    try:
        parent = Path(folder, Path(head + slash).expanduser() if slash else "")
    except RuntimeError:  # ~somebody who does not exist
        return []
    names = [
        name + "/" * is_folder
        for name, is_folder in _entries(parent)
        if name.startswith(begun) and (begun.startswith(".") or not name.startswith("."))
    ]
    return [head + slash + name for name in sorted(names)[:_MOST]]


def _entries(folder: Path) -> Iterable[tuple[str, bool]]:
    try:
        with os.scandir(folder) as found:
            return [(entry.name, entry.is_dir()) for entry in found if _is_typeable(entry.name)]
    except OSError:
        return []


def _is_typeable(name: str) -> bool:
    """Names with line ends or quotes cannot be written after an @."""
    return name.isprintable() and '"' not in name


def _short(path: str) -> str:
    """The last part of a path, as a menu shows it."""
    name = path.rstrip("/").rpartition("/")[2]
    return name + "/" * path.endswith("/")
