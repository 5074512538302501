"""Property tests of two lengths: a plain run tries some examples, and the slow one all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

SLOW = False
"""Whether this is a run of the slow tests alone; set before any test is imported."""

Test = Callable[..., Any]


def examples(some: int, *, slow: int, **options: Any) -> Callable[[Test], Test]:
    """`some` examples of what `given` decorates; `slow` ones, as a slow test, by `make slow`."""

    def of(test: Test) -> Test:
        found: Any = settings(max_examples=slow if SLOW else some, deadline=None, **options)(test)
        found.has_more_examples = not SLOW
        return pytest.mark.slow(found) if SLOW else found  # type: ignore[no-any-return]

    return of
