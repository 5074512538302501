"""How two ranks meet: on sockets of this machine, with short limits where one stays away."""

import errno
import socket
from dataclasses import replace

import pytest

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers import meeting
from dsv4_mlx.peers.guard import Guard
from dsv4_mlx.peers.meeting import agree, meet, refuse, require_free
from dsv4_mlx.peers.peer_socket import PeerSocket
from dsv4_mlx.peers.watchdog import Watchdog
from tests.peers.meetings import LONG_S, SOON_S, both, free_ring, greeting, side_by_side
from tests.peers.test_watchdog import Clock


def met(**changes: object) -> tuple[PeerSocket, PeerSocket]:
    """The two ends of one line."""
    ring = free_ring()
    ends = side_by_side(*(lambda r=r: meet(greeting(r, ring, **changes)) for r in (0, 1)))
    return ends[0].result(), ends[1].result()


def test_two_ranks_meet_and_agree() -> None:
    ring, facts = free_ring(), both()

    def begin(rank: int) -> list:
        peer = meet(greeting(rank, ring))
        try:
            return agree(peer, facts[rank])
        finally:
            peer.close()

    for end in side_by_side(lambda: begin(0), lambda: begin(1)):
        assert end.result() == facts


def refused(first: object, second: object) -> list[str]:
    """What either rank is told when they do not agree."""
    ring, sentences = free_ring(), []

    def begin(rank: int, mine: object) -> None:
        peer = meet(greeting(rank, ring))
        try:
            refuse(peer, mine) if isinstance(mine, str) else agree(peer, mine)
        finally:
            peer.close()

    for end in side_by_side(lambda: begin(0, first), lambda: begin(1, second)):
        assert isinstance(end.exception(), PipelineError)
        sentences.append(str(end.exception()))
    return sentences


def test_unlike_ranks_refuse_on_both_sides() -> None:
    facts = both(recipe="q2")
    one, other = refused(*facts)
    assert "recipe native and rank 1 (mini) has q2" in one
    assert other == one


def test_what_one_rank_cannot_do_is_told_by_the_other() -> None:
    one, other = refused(both()[0], "/pro has no config.json; download it again.")
    assert one == "rank 1 (mini): /pro has no config.json; download it again."
    assert other == "/pro has no config.json; download it again."


def test_another_version_is_refused_before_anything_is_read() -> None:
    ring = free_ring()
    jobs = [
        lambda: meet(greeting(0, ring)),
        lambda: meet(replace(greeting(1, ring), version="2.0")),
    ]
    sentences = [str(end.exception()) for end in side_by_side(*jobs)]
    assert "rank 1 (mini) has dsv4-mlx 2.0 and rank 0 (studio) 1.0" in sentences[0]
    assert "rank 0 (studio) has dsv4-mlx 1.0 and rank 1 (mini) 2.0" in sentences[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stays_away_is_named(rank: int) -> None:
    mine = replace(greeting(rank, free_ring()), limit_s=SOON_S)
    with pytest.raises(PipelineError, match=rf"^rank {1 - rank} \((mini|studio)\) .*within 0.2 s"):
        meet(mine)


def test_a_stranger_does_not_end_the_wait() -> None:
    ring = free_ring()
    address, port = meeting.meeting_place(ring)

    def strangers() -> PeerSocket:
        waiting = replace(greeting(1, ring), token="another", limit_s=SOON_S)
        with pytest.raises(PipelineError, match="another program answers"):
            meet(waiting)
        with socket.create_connection((address, port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return meet(greeting(1, ring))

    for end in side_by_side(lambda: meet(greeting(0, ring)), strangers):
        assert end.result().problem == ""
        end.result().close()


def test_ports_are_looked_at_before_mlx_takes_them() -> None:
    (mine,), _ = free_ring()
    require_free([mine])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(mine.rpartition(":")[2])))
        taken.listen()
        with pytest.raises(PipelineError, match=r"^port \d+ of 127.0.0.1 is in use; .* --port\.$"):
            require_free([mine])
    with pytest.raises(PipelineError, match=r"192\.0\.2\.1 is no address of this machine"):
        require_free(["192.0.2.1:9"])


def test_no_route_names_the_page_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object, **__: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(socket, "create_connection", no_route)
    mine = replace(greeting(1, free_ring()), limit_s=SOON_S)
    with pytest.raises(PipelineError, match="Privacy & Security > Local Network"):
        meet(mine)


def test_a_rank_that_dies_is_told_at_once() -> None:
    mine, other = met()
    told: list[str] = []
    mine.when_given_up(told.append)
    other._connection.shutdown(socket.SHUT_RDWR)  # as the system does when a process dies
    with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) is gone: its program ended"):
        mine.hear("facts")
    assert told == [mine.problem]


def test_a_rank_that_leaves_in_the_ordinary_way_is_no_problem() -> None:
    mine, other = met()
    told: list[str] = []
    mine.when_given_up(told.append)
    other.tell("facts", facts=1)
    other.close()
    assert mine.hear("facts") == {"kind": "facts", "facts": 1}
    with pytest.raises(PipelineError, match="left"):
        mine.hear("facts")
    assert (mine.problem, told, mine.is_over) == ("", [], True)


def test_a_silent_rank_is_given_up_when_the_clock_says_so() -> None:
    here, there = tcp_pair()
    clock = Clock()
    peer = PeerSocket(here, "rank 1 (mini)", 30.0, clock=clock, beat_s=0.005)
    clock.now += 30.0
    there.sendall(b"\0\0\0\1\3x")
    assert peer.receive() == b"x"  # what came last counts
    clock.now += 31.0
    with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) has not answered for 31 s; look"):
        peer.receive()
    there.close()


def test_signs_of_life_keep_a_line_alive() -> None:
    mine, other = met(limit_s=LONG_S)
    mine.limit_s = other.limit_s = SOON_S  # ten beats
    other._listener.join(3 * SOON_S)
    assert mine.problem == other.problem == ""
    mine.close()
    other.close()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\2x", b"\0\0\0\1\t"])
def test_who_says_something_else_is_nobody_of_ours(sent: bytes) -> None:
    here, there = tcp_pair()
    peer = PeerSocket(here, "rank 1 (mini)", LONG_S, beat_s=0.005)
    there.sendall(sent)
    with pytest.raises(PipelineError, match="is gone"):
        peer.receive()
    there.close()


def test_records_and_bytes_are_not_taken_for_each_other() -> None:
    mine, other = met()
    other.tell("facts", facts=1)
    other.send(b"x")
    with pytest.raises(PipelineError, match="said 'facts' where something else"):
        mine.receive()
    with pytest.raises(PipelineError, match="said 'bytes' where something else"):
        mine.hear("facts")
    mine.close()
    other.close()


def test_large_messages_come_whole_and_in_order() -> None:
    mine, other = met()
    sent = [bytes([number]) * (number * 300_000) for number in range(4)]
    ends = side_by_side(
        lambda: [other.send(one) for one in sent], lambda: [mine.receive() for _ in sent]
    )
    assert ends[1].result() == sent
    mine.close()
    other.close()


def test_the_guard_ends_once_whatever_happens() -> None:
    mine, other = met()
    clock, ended = Clock(), []
    watchdog = Watchdog(30.0, clock)
    guard = Guard(mine, watchdog, ended.append, tick_s=0.001, grace_s=0.001)
    with watchdog.watching():
        clock.now += 31.0
        guard._thread.join(LONG_S)
    other._connection.shutdown(socket.SHUT_RDWR)
    mine._listener.join(LONG_S)
    assert ended == [
        "rank 1 (mini) has not answered for 31 s; look what became of it there, then start again."
    ]


def test_a_closed_guard_ends_nothing() -> None:
    mine, other = met()
    ended: list[str] = []
    Guard(mine, Watchdog(30.0, Clock()), ended.append, tick_s=0.001, grace_s=0.001).close()
    other._connection.shutdown(socket.SHUT_RDWR)
    mine._listener.join(LONG_S)
    assert mine.problem and ended == []


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        return listener.accept()[0], there
