"""A session as one entry of a list, and how a person's word for it finds it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cli.kept.session_log import SUFFIX
from cli.kept.session_replay import NothingKept, Replay, SessionError, replay
from cli.kept.session_times import NEVER, began
from cli.safe import exact, harmless
from dsv4_mlx.errors import UsageError

MOST_NAME = 80
_TITLE = 60
_SHORTEST_ID = 4
# How cli.attachments puts files before a message.
_FILE_BEGINS, _FILE_ENDS = "[file name]: ", "[file content end]\n"


@dataclass(frozen=True)
class Summary:
    """One session in a list. Texts are on one line and harmless to show."""

    id: str
    name: str | None
    title: str
    """The first words of the first message."""
    model: str
    changed: datetime
    """When its last record was written."""
    turns: int
    kv_bytes: int | None
    parent: str | None
    """The id of the session this one was forked from."""
    problem: str | None = None
    """Why it cannot be opened, in one sentence."""


def summarise(path: Path) -> Summary | None:
    """All but the size of the cache file; None for a file that is gone or has nothing in it."""
    try:
        with open(path, "rb") as file:
            session, problem = replay(file, path, whole=False), None
    except (FileNotFoundError, NothingKept):
        return None
    except SessionError as error:
        session, problem = Replay(whole=False), str(error)
    except OSError as error:
        session, problem = Replay(whole=False), f"{path}: {error.strerror}."
    return Summary(
        id=path.name.removesuffix(SUFFIX),
        name=session.name,
        title=title_of(session.title),
        model=session.model,
        changed=session.changed or began(path.stem) or NEVER,
        turns=len(session.turns),
        kv_bytes=None,
        parent=session.parent,
        problem=problem,
    )


def with_cache(summary: Summary, path: Path) -> Summary:
    """With the present size of its cache file, which changes on its own."""
    return replace(summary, kv_bytes=_size(path.with_suffix(".kv")))


def find(summaries: Sequence[Summary], name_or_id: str) -> Summary:
    """The one with this id or name, or whose id begins so; UsageError with what is near."""
    wanted = _one_line(name_or_id)
    for is_it in (_is_id, _is_name, has_name):
        if found := [summary for summary in summaries if is_it(summary, wanted)]:
            return found[0]
    starts = [summary for summary in summaries if summary.id.startswith(wanted)]
    if len(starts) == 1 and len(wanted) >= _SHORTEST_ID:
        return starts[0]
    raise UsageError(_not_found(wanted, summaries, starts))


def check_name(name: str) -> str:
    """`name` as it is kept. Raises UsageError when it can be none."""
    kept = " ".join(name.split())
    if not 1 <= len(kept) <= MOST_NAME or exact(kept) != kept:
        raise UsageError(
            f"expected a name of 1 to {MOST_NAME} visible characters, found "
            f"{exact(kept)[:MOST_NAME]!r}."
        )
    return kept


def _is_id(summary: Summary, wanted: str) -> bool:
    return summary.id == wanted


def _is_name(summary: Summary, wanted: str) -> bool:
    return summary.name == wanted


def has_name(summary: Summary, wanted: str) -> bool:
    """Whether it is called so, whatever the case of the letters."""
    return summary.name is not None and summary.name.casefold() == wanted.casefold()


def _not_found(wanted: str, summaries: Sequence[Summary], starts: Sequence[Summary]) -> str:
    if starts:
        shown = ", ".join(summary.id for summary in starts[:5])
        more = f" and {len(starts) - 5} more" if len(starts) > 5 else ""
        return f"{wanted!r} begins {len(starts)} session ids: {shown}{more}; give more of one."
    names = [summary.name for summary in summaries if summary.name]
    near = difflib.get_close_matches(wanted, [*names, *(s.id for s in summaries)], n=3)
    hint = f"near it: {', '.join(near)}" if near else f"there are {len(summaries)} sessions"
    return f"there is no session {wanted!r}; {hint}."


def _one_line(text: str) -> str:
    return " ".join(harmless(text).split())


def title_of(text: str) -> str:
    """The first words of a first message, on one line and harmless to show."""
    if text.startswith(_FILE_BEGINS):  # what was typed follows the files
        text = text.rpartition(_FILE_ENDS)[2] or text
    # A message may hold a whole book; its beginning is enough to split.
    line = _one_line(text[: 40 * _TITLE])
    return line if len(line) <= _TITLE else line[: _TITLE - 1].rsplit(" ", 1)[0] + "…"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
