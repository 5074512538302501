"""A hundred conversations over two ranks in a row."""

from pathlib import Path

import pytest

from tests.cli.ranks.test_two_ranks_of_nano import conversations

pytestmark = pytest.mark.soak


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_hundred_conversations_leave_nothing() -> None:
    conversations(100)
