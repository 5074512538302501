"""Clients that do not read the rest of an answer that was sent whole."""

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest

from cli.serve.limits import HttpLimits
from cli.serve.records import Records
from tests.cli.serve.served_app import Client, Served, script
from tests.cli.serve.test_socket import PATIENCE_S, running
from tests.terminal.ranks import wait_until

_LARGE = 16 << 20
"""Bytes that the system takes in no connection."""


@pytest.mark.slow
def test_an_answer_whose_rest_nobody_reads_ends_its_connection(tmp_path: Path) -> None:
    body = {"input": "Hello", "metadata": {"said": "a" * _LARGE}}
    content = json.dumps(body).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    limits = {"write_s": 0.5, "connections": 1}
    with running(tmp_path, "--no-save", **limits) as program, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.connect(("127.0.0.1", program.port))
        client.sendall(head.encode() + b"\r\n" + content)
        assert client.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: program.ask("GET", "/health")[0] == 200)


@pytest.mark.parametrize(
    ("left", "looks", "is_aborted"),
    [
        ([], 1, False),
        ([3, 3, 3, 3, 2, 2, 2, 2, 1, 0], 10, False),
        ([3, 3, 3, 3, 3, 2], 5, True),
        ([3, 3, 3, 2, 2, 2, 2, 2, 1], 8, True),
    ],
)
def test_who_reads_slowly_is_waited_for(left: list[int], looks: int, is_aborted: bool) -> None:
    """`left` are the bytes unsent at each look, of which each takes 30 of the 120 seconds."""
    seconds = 0.0
    unsent = iter([*left, 0])
    looked = 0

    def look() -> int:
        nonlocal seconds, looked
        seconds, looked = seconds + 30, looked + 1
        return next(unsent)

    limits = HttpLimits(first_event_s=PATIENCE_S, write_s=120.0, look_s=0.0)
    served = Served(
        script("Hi."), limits=limits, options={"records": Records(clock=lambda: seconds)}
    )

    async def work(client: Client) -> bool:
        answer = await client.get("/health", unsent=look)
        return answer.was_aborted

    assert (served.run(work), looked) == (is_aborted, looks)
