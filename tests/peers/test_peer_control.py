"""The socket as a pipeline asks for it: who waits under a limit, and what the end of one is."""

import pytest

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers.peer_control import PeerControl
from dsv4_mlx.peers.peer_socket import PeerSocket
from dsv4_mlx.peers.waking import Waking
from dsv4_mlx.peers.watchdog import Watchdog
from tests.peers.meetings import side_by_side
from tests.peers.test_meeting import met
from tests.peers.test_watchdog import Clock


class Counting(Watchdog):
    """Counts the waits that began."""

    waits = 0

    def watching(self):
        self.waits += 1
        return super().watching()


def controls() -> tuple[list[PeerControl], list[PeerSocket], list[Counting]]:
    """Rank 0's and the worker's."""
    sockets, dogs = list(met()), [Counting(30.0, Clock()), Counting(30.0, Clock())]
    made = [
        PeerControl(peer, dog, Waking(), waits_asleep=asleep)
        for peer, dog, asleep in zip(sockets, dogs, (False, True), strict=True)
    ]
    return made, sockets, dogs


def test_rank_0_waits_under_a_limit_and_the_worker_as_long_as_it_takes() -> None:
    (mine, worker), sockets, dogs = controls()
    mine.send(b"\0" * 8)
    assert worker.receive() == b"\0" * 8
    worker.send(b"done")
    assert mine.receive() == b"done"
    assert [dog.waits for dog in dogs] == [1, 0]
    with worker.guarded():
        assert dogs[1].waits == 1
    assert (mine.peer, worker.peer) == ("rank 1 (mini)", "rank 0 (studio)")
    for one in sockets:
        one.close()


def test_the_ordinary_end_is_the_workers_last_message() -> None:
    (_, worker), (mine, _), _ = controls()
    mine.close()
    with pytest.raises(EOFError):
        worker.receive()


def test_a_worker_that_leaves_is_missed() -> None:
    (mine, _), (_, worker), _ = controls()
    worker.close()
    with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) left while it was needed"):
        mine.receive()


def test_nothing_is_sent_to_a_rank_that_is_given_up() -> None:
    (mine, _), (here, there), _ = controls()
    there._connection.close()
    side_by_side(here._listener.join)
    with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) is gone"):
        mine.send(b"x")
