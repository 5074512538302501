"""Clients that do not read the rest of an answer that was sent whole."""

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest

from cli.serve import gate
from cli.serve.limits import HttpLimits
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


@pytest.mark.parametrize(("left", "is_aborted"), [([3, 3, 2, 1, 0], False), ([3, 2, 2], True)])
def test_who_reads_slowly_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, left: list[int], is_aborted: bool
) -> None:
    """`left` are the bytes unsent at each look; the last stays."""
    monkeypatch.setattr(gate, "_LOOK_S", 0.0)
    served = Served(script("Hi."), limits=HttpLimits(write_s=0.0 if is_aborted else PATIENCE_S))

    async def work(client: Client) -> bool:
        looks = iter(left)
        answer = await client.get("/health", unsent=lambda: next(looks, left[-1]))
        return answer.was_aborted

    assert served.run(work) is is_aborted
