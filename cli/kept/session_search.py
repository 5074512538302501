"""Finding turns in kept conversations: literally, whatever the case of letters, all words of it.

Looked at are what was asked and answered, and what tools were called with and gave; reasoning is
not. A file is read as far as it is whole, and only lines that may hold the words are parsed.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from cli.kept.session_lines import Line, LineError, raw_lines, read_line
from cli.kept.session_replay import Replay
from cli.kept.session_summary import Summary
from cli.kept.sessions import SessionStore
from cli.safe import harmless
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import PromptError

MOST_HITS = 20
MOST_BYTES = 256 << 20
"""Of all files together, the newest first; a search of more would take seconds."""
_BEFORE, _AFTER = 50, 90
_MOST_EXCERPTS = 2
_SPEAKERS = {"user": "you", "assistant": "answer", "tool": "tool"}
# What stands in a JSON text as it is.
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')


@dataclass(frozen=True)
class Excerpt:
    """Where words stand in one message; the pieces that are words have True."""

    speaker: str
    pieces: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class Hit:
    """A turn that has all the words; `number` counts from 1."""

    summary: Summary
    number: int
    excerpts: tuple[Excerpt, ...]


@dataclass
class Found:
    """What a search came to."""

    hits: list[Hit]
    more: int = 0
    """Turns that have the words too and are not among `hits`."""
    unreadable: int = 0
    """Conversations that cannot be read."""
    unread: int = 0
    """Older conversations, beyond MOST_BYTES."""


def search(store: SessionStore, text: str, stopped: Callable[[], bool] = lambda: False) -> Found:
    """The newest turns with all words of `text`. KeyboardInterrupt when `stopped` says so.

    A fork repeats what its parent holds: of equal turns of one family the newest counts.
    """
    words = folded_words(text)
    summaries = store.summaries()
    families = _families(summaries)
    found, read, seen = Found([]), 0, set()
    for place, summary in enumerate(summaries):
        if summary.problem is not None:
            found.unreadable += 1
            continue
        try:
            with open(store.path(summary), "rb") as file:
                read += file.seek(0, 2)
                if read > MOST_BYTES:
                    found.unread = len(summaries) - place
                    break
                file.seek(0)
                for number, turn in _matching(file, words, stopped):
                    key = (families[summary.id], json.dumps(turn.messages, sort_keys=True))
                    if key in seen:
                        continue
                    seen.add(key)
                    if len(found.hits) < MOST_HITS:
                        found.hits.append(Hit(summary, number, excerpts(turn, words)))
                    else:
                        found.more += 1
        except OSError:
            found.unreadable += 1
    return found


def folded_words(text: str) -> list[str]:
    """The words to look for."""
    return list(dict.fromkeys(_folded(word) for word in text.split()))


def texts(turn: Turn) -> list[tuple[str, str]]:
    """What is searched: who speaks, and what."""
    return [(_SPEAKERS.get(m["role"], ""), _text(m)) for m in turn.messages]


def excerpts(turn: Turn, words: Sequence[str]) -> tuple[Excerpt, ...]:
    """The surroundings of the words, in as few messages as show all of them."""
    left, found = list(words), list[Excerpt]()
    for speaker, text in texts(turn):
        here = _folded(text)
        if len(found) < _MOST_EXCERPTS and any(word in here for word in left):
            found.append(Excerpt(speaker, _pieces(text, left, words)))
            left = [word for word in left if word not in here]
    return tuple(found)


def _matching(
    file: BinaryIO, words: Sequence[str], stopped: Callable[[], bool]
) -> Iterator[tuple[int, Turn]]:
    """Number and turn of those that have all words, the last first."""
    standing = _standing(file, stopped)
    for number in range(len(standing), 0, -1):
        if stopped():
            raise KeyboardInterrupt
        line, raw = standing[number - 1]
        if not _may_have(raw, words):
            continue
        try:
            turn = Turn.from_json(line.fields().get("turn"))
        except (LineError, PromptError, RecursionError):
            continue
        said = "\n".join(_folded(text) for _, text in texts(turn))
        if all(word in said for word in words):
            yield number, turn


def _standing(file: BinaryIO, stopped: Callable[[], bool]) -> list[tuple[Line, bytes]]:
    """The lines of the turns that stand, up to the first line that is damaged."""
    session, standing = Replay(whole=False), list[tuple[Line, bytes]]()
    try:
        for number, raw in enumerate(raw_lines(file), start=1):
            if stopped():
                raise KeyboardInterrupt
            line = read_line(raw, number)
            session.take(line)
            if line.kind in ("turn", "rewind"):
                del standing[line.keep :]
            if line.kind == "turn":
                standing.append((line, raw))
    except LineError:
        pass  # what stands before it is searched
    return standing


def _may_have(raw: bytes, words: Sequence[str]) -> bool:
    """Whether a turn's line is worth parsing: cheap, and never wrong about a line that has them."""
    if not raw.isascii() or b"\\u" in raw:  # a character may stand there escaped
        return True
    line = raw.lower()
    return all(
        word.isascii() and all(part.encode() in line for part in _PLAIN.findall(word))
        for word in words
    )


def _families(summaries: Sequence[Summary]) -> dict[str, str]:
    """For each conversation the first of those that it was forked from."""
    parents = {summary.id: summary.parent for summary in summaries}
    families: dict[str, str] = {}
    for summary in summaries:
        root, seen = summary.id, {summary.id}
        while (parent := parents.get(root)) and parent not in seen:
            root = parent
            seen.add(root)
        families[summary.id] = root
    return families


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    parts = [content if isinstance(content, str) else ""]
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        parts += [str(function.get("name", "")), str(function.get("arguments", ""))]
    return _composed("\n".join(part for part in parts if part))


def _composed(text: str) -> str:
    """Letters with their accents as one character, however they were typed."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _composed(text).casefold()


def _pieces(text: str, first: Sequence[str], words: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """The text around the first of `first`, with all `words` in it marked."""
    folded = text.casefold()
    start, length = min((place, len(word)) for word in first if (place := folded.find(word)) >= 0)
    start = _places(text, start + 1)[start]
    begin, end = max(0, start - _BEFORE), min(len(text), start + max(length, _AFTER))
    shown = text[begin:end]
    marked = _marked(shown, words)
    pieces = [("…", False)] if begin else []
    run = 0
    for place in range(1, len(shown) + 1):
        if place == len(shown) or marked[place] != marked[run]:
            piece = re.sub(r"\s+", " ", harmless(shown[run:place]))
            pieces.append((piece, marked[run]))
            run = place
    return (*pieces, *([("…", False)] if end < len(text) else []))


def _places(text: str, most: int) -> list[int]:
    """For each of the first `most` characters of the folded text, where it comes from."""
    places: list[int] = []
    for place, character in enumerate(text):
        places += [place] * len(character.casefold())
        if len(places) >= most:
            break
    return places


def _marked(text: str, words: Sequence[str]) -> list[bool]:
    folded = text.casefold()
    places, marked = _places(text, len(folded)), [False] * len(text)
    for word in words:
        found = folded.find(word)
        while found >= 0:
            for place in places[found : found + len(word)]:
                marked[place] = True
            found = folded.find(word, found + 1)
    return marked
