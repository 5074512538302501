"""Files that are finished later, by another thread than the one that has their content.

>>> left: list[Callable[[], None]] = []
>>> with finished_by(left.append):
...     session.save(path)          # what needs the model is done
>>> for work in left: work()        # sums, waits for the disk and names the file; any thread
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Finishing: TypeAlias = Callable[[], None]
_LATER: ContextVar[Callable[[Finishing], None] | None] = ContextVar("later", default=None)


@contextmanager
def finished_by(later: Callable[[Finishing], None]) -> Iterator[None]:
    """Inside, on this thread, `later` is given what finishes each file."""
    before = _LATER.set(later)
    try:
        yield
    finally:
        _LATER.reset(before)


def finish(work: Finishing) -> None:
    """Finish a file: now, unless whoever asked for it does it later."""
    later = _LATER.get()
    if later is None:
        work()
    else:
        later(work)
