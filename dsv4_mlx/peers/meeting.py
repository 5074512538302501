"""How two ranks meet before MLX's own beginning, which waits for ever.

Rank 0 listens at its named address alone, rank 1 comes to it. They compare versions at once, then
what each found of model and machine, and neither begins unless both may. Every wait has a limit.
"""

import errno
import hmac
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers.facts import RankFacts, refusal
from dsv4_mlx.peers.hostfile import Ring, meeting_place, split_address
from dsv4_mlx.peers.peer_socket import BEAT_S, PeerSocket
from dsv4_mlx.peers.watchdog import PEER_TIMEOUT_S

_PAUSE_S = 0.1
_GREETING_S = 5.0
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)
_HOW = "docs/two-macs.md goes through it"
UNREACHABLE_CURE = (
    "on a Mac allow the terminal under System Settings > Privacy & Security > Local Network"
)
"""Where the system finds no route to a machine on the same cable: error 65 on macOS."""


@dataclass(frozen=True)
class Greeting:
    """One rank's place in a run, and what it says first."""

    rank: int
    ring: Ring
    version: str
    host: str
    other: str
    """What the other rank is called until it says so itself."""
    token: str = ""
    """Known to the ranks of one run alone, where one program started both."""
    limit_s: float = PEER_TIMEOUT_S
    pause_s: float = _PAUSE_S
    beat_s: float = BEAT_S
    clock: Callable[[], float] = time.monotonic

    @property
    def other_name(self) -> str:
        """For sentences."""
        return f"rank {1 - self.rank} ({self.other})"


def meet(mine: Greeting) -> PeerSocket:
    """The line to the other rank; PipelineError when it does not come or is of another version."""
    return _await(mine) if mine.rank == 0 else _come(mine)


def exchange(peer: PeerSocket, kind: str, mine: object) -> Any:
    """The other rank's value of a `kind` for this one's, as JSON has it; PipelineError where it has
    none and says why."""
    peer.tell(kind, value=mine)
    record = peer.hear(kind, "refused")
    if record["kind"] == "refused":
        raise PipelineError(_told(peer, record["reason"]))
    return record.get("value")


def refuse(peer: PeerSocket, reason: str) -> NoReturn:
    """Tell the other rank why this one cannot begin, and raise it as PipelineError."""
    peer.tell("refused", reason=reason)
    raise PipelineError(reason)


def agree(peer: PeerSocket, mine: RankFacts) -> list[RankFacts]:
    """What both ranks are, by rank, once both may begin; PipelineError, on both, where one may
    not."""
    ranks = _by_rank(peer, mine, exchange(peer, "facts", mine.to_json()))
    if reason := refusal(ranks):
        refuse(peer, reason)
    peer.tell("ready")
    record = peer.hear("ready", "refused")
    if record["kind"] == "refused":
        raise PipelineError(str(record["reason"]))
    return ranks


def require_free(addresses: Sequence[str]) -> None:
    """PipelineError where one of these `address:port`s is no address here, or is in use."""
    for one in addresses:
        _bound(*split_address(one)).close()


def _told(peer: PeerSocket, reason: object) -> str:
    """What the other rank said of itself, with its name unless it stands there."""
    return str(reason) if peer.name in str(reason) else f"{peer.name}: {reason}"


def _by_rank(peer: PeerSocket, mine: RankFacts, found: object) -> list[RankFacts]:
    try:
        other = RankFacts.from_json(found)  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError) as error:
        raise PipelineError(
            f"{peer.name} tells other facts than this version knows; install the same version of "
            "dsv4-mlx on both."
        ) from error
    return sorted((mine, other), key=lambda one: one.rank)


def _await(mine: Greeting) -> PeerSocket:
    """Rank 0's side: the first that comes and knows the token."""
    deadline = mine.clock() + mine.limit_s
    with closing(_bound(*meeting_place(mine.ring))) as listener:
        listener.listen(4)
        while (left := deadline - mine.clock()) > 0:
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                break
            if (peer := _greeted(mine, connection)) is not None:
                return peer
    address, port = meeting_place(mine.ring)
    raise PipelineError(
        f"{mine.other_name} did not come to {address}:{port} within {mine.limit_s:g} s; start it "
        f"too and let its firewall pass Python ({_HOW})."
    )


def _come(mine: Greeting) -> PeerSocket:
    """Rank 1's side: asks until rank 0 is there."""
    deadline = mine.clock() + mine.limit_s
    place, reason = meeting_place(mine.ring), "nobody answers"
    while (left := deadline - mine.clock()) > 0:
        try:
            connection = socket.create_connection(place, timeout=left)
        except OSError as error:
            reason = _reason(error)
            time.sleep(mine.pause_s)
            continue
        if (peer := _greeted(mine, connection)) is not None:
            return peer
        reason = "another program answers"
        time.sleep(mine.pause_s)
    raise PipelineError(
        f"{mine.other_name} was not there at {place[0]}:{place[1]} within {mine.limit_s:g} s "
        f"({reason}); start it too ({_HOW})."
    )


def _greeted(mine: Greeting, connection: socket.socket) -> PeerSocket | None:
    """The line, once the other end said who it is; None for a stranger."""
    patience_s = min(mine.limit_s, _GREETING_S)
    peer = PeerSocket(connection, mine.other_name, patience_s, clock=mine.clock, beat_s=mine.beat_s)
    peer.tell("hello", rank=mine.rank, version=mine.version, host=mine.host, token=mine.token)
    try:
        record = peer.hear("hello")
    except PipelineError:
        peer.close()
        return None
    same = hmac.compare_digest(str(record.get("token")).encode(), mine.token.encode())
    if not same or record.get("rank") != 1 - mine.rank:
        peer.close()
        return None
    peer.limit_s = mine.limit_s
    peer.name = f"rank {1 - mine.rank} ({record.get('host')})"
    if record.get("version") != mine.version:
        peer.close()
        raise PipelineError(
            f"{peer.name} has dsv4-mlx {record.get('version')} and rank {mine.rank} ({mine.host}) "
            f"{mine.version}; install the same version on both."
        )
    return peer


def _bound(address: str, port: int) -> socket.socket:
    """A socket that may listen there."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise PipelineError(_unbound(address, port, error)) from error
    return listener


def _unbound(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {address} is in use; choose others with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{address} is no address of this machine; the first host of the file must be the one "
            "at which dsv4-chat starts, and each be told its own address."
        )
    return f"nothing can listen at {address}:{port}: {error.strerror}."


def _reason(error: OSError) -> str:
    if error.errno in _UNREACHABLE:
        return f"error {error.errno}, no route; {UNREACHABLE_CURE}"
    return error.strerror or str(error)
