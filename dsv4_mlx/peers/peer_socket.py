"""The connection of two ranks beside MLX's: whole messages, and a sign of life every second.

MLX's own waits end never, and spin. So each rank waits here for what the other says, sleeps here
between requests, and learns here that the other one died or fell silent.

A message is its length, 4 bytes, its kind, 1 byte, and its content: JSON while the ranks agree,
bytes of the pipeline afterwards.
"""

import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from dsv4_mlx.errors import PipelineError
from dsv4_mlx.files.documents import DocumentError, parse_object

BEAT_S = 1.0
MOST_BYTES = 256 << 20
"""Of one message: the ids of a prompt, or a list of arrays, are far below."""
_HEAD = struct.Struct(">IB")
_ALIVE, _BYE, _RECORD, _BYTES = range(4)
_AGAIN = "look what became of it there, then start again."


class PeerSocket:
    """One end of the connection. The constructor starts the thread that listens."""

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        limit_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        beat_s: float = BEAT_S,
    ) -> None:
        """`name` is the other rank's, for sentences; silence of `limit_s` seconds gives it up."""
        self.name = name
        self.limit_s = limit_s
        self.problem = ""
        """Why the other rank is given up, a sentence; "" while it is not."""
        self.is_over = False
        """Whether either end left in the ordinary way."""
        self._connection = connection
        self._clock = clock
        self._beat_s = beat_s
        self._inbox: SimpleQueue[dict[str, Any] | bytes | None] = SimpleQueue()
        self._heard_at = self._beat_at = clock()
        self._tell: Callable[[str], None] | None = None
        self._lock = Lock()
        connection.settimeout(beat_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._listener = Thread(target=self._listen, name="peer", daemon=True)
        self._listener.start()

    def when_given_up(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with `problem`, once there is one, on the thread that listens."""
        with self._lock:
            self._tell = tell
            told = self.problem
        if told:
            tell(told)

    def send(self, message: bytes) -> None:
        """Send bytes; PipelineError where the other rank is given up."""
        if self.problem:
            raise PipelineError(self.problem)
        self._write(_BYTES, message)

    def receive(self) -> bytes | None:
        """The next bytes, waited for asleep; None once the other end left in the ordinary way.

        PipelineError where the other rank is given up.
        """
        message = self._next()
        if message is None:
            return None
        if not isinstance(message, bytes):
            raise PipelineError(self._unexpected(message))
        return message

    def tell(self, kind: str, **values: Any) -> None:
        """Send one record."""
        self._write(_RECORD, json.dumps({"kind": kind, **values}).encode())

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next record, which must be of one of `kinds`; PipelineError when none will come."""
        record = self._next()
        if record is None:
            raise PipelineError(f"{self.name} left; start again.")
        if isinstance(record, bytes) or record.get("kind") not in kinds:
            raise PipelineError(self._unexpected(record))
        return record

    def close(self) -> None:
        """Leave in the ordinary way; for any thread, and more than once."""
        if not self.is_over:
            self.is_over = True
            self._write(_BYE, b"")
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _next(self) -> dict[str, Any] | bytes | None:
        message = self._inbox.get()
        if message is None:
            self._inbox.put(None)  # for whoever asks again
            if self.problem:
                raise PipelineError(self.problem)
        return message

    def _unexpected(self, message: object) -> str:
        kind = message.get("kind") if isinstance(message, dict) else "bytes"
        return (
            f"{self.name} said {kind!r} where something else was expected; install the same "
            "version of dsv4-mlx on both."
        )

    def _write(self, kind: int, content: bytes) -> None:
        with self._lock, suppress(OSError):  # the listener learns what is wrong
            self._connection.sendall(_HEAD.pack(len(content), kind) + content)

    def _listen(self) -> None:
        try:
            while not self.is_over and (head := self._exactly(_HEAD.size)) is not None:
                length, kind = _HEAD.unpack(head)
                if length > MOST_BYTES or kind > _BYTES:
                    return  # nobody of ours
                content = self._exactly(length)
                if content is None or not self._take(kind, content):
                    return
        finally:
            if not self.is_over and not self.problem:
                self._give_up(f"{self.name} is gone: its program ended or the network broke")
            self._inbox.put(None)

    def _take(self, kind: int, content: bytes) -> bool:
        """Hand on what came; whether the other end is one of ours."""
        if kind == _BYE:
            self.is_over = True
        elif kind == _BYTES:
            self._inbox.put(content)
        elif kind == _RECORD:
            try:
                self._inbox.put(parse_object(content))
            except DocumentError:
                return False
        return True

    def _exactly(self, count: int) -> bytes | None:
        """So many bytes; None when they will not come."""
        buffer = bytearray()
        while len(buffer) < count:
            data = self._heard(count - len(buffer))
            if data is None:
                return None
            buffer += data
        return bytes(buffer)

    def _heard(self, most: int) -> bytes | None:
        """What came, nothing where a beat passed; None when nothing can come any more."""
        try:
            data = self._connection.recv(min(most, 1 << 20))
        except TimeoutError:
            data = b""
        except OSError:
            return None
        else:
            if not data:
                return None
        now = self._clock()
        if data:
            self._heard_at = now
        elif now - self._heard_at > self.limit_s:
            self._give_up(f"{self.name} has not answered for {now - self._heard_at:.0f} s")
            return None
        if now - self._beat_at >= self._beat_s:
            self._beat_at = now
            self._write(_ALIVE, b"")
        return data

    def _give_up(self, reason: str) -> None:
        with self._lock:
            self.problem = f"{reason}; {_AGAIN}"
            tell = self._tell
        self._inbox.put(None)  # whoever waits may say it first
        if tell is not None:
            tell(self.problem)
