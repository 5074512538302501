"""The program over a real socket: its start, hostile bytes, its signals and its end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.serve.limits import HttpLimits
from cli.serve.running import GRACE_S, listen
from dsv4_mlx.errors import UsageError
from tests.cli.running import run

PATIENCE_S = 120.0
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hello"}]}
REPLIES: dict[str, Any] = {"replies": [{"text": "One word after the other. ", "repeat": 3}]}


@dataclass
class Program:
    """A server that runs in a process of its own."""

    process: "subprocess.Popen[str]"
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def raw(self, *pieces: bytes) -> bytes:
        """What comes back for bytes as they are, until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            for piece in pieces:
                connection.sendall(piece)
            found = b""
            with suppress(ConnectionResetError):  # closed with bytes of ours unread
                while more := connection.recv(1 << 16):
                    found += more
            return found

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send a signal; what the program wrote to stderr."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return errors


@contextmanager
def running(
    tmp_path: Path,
    *options: str,
    script: dict[str, Any] = REPLIES,
    grace_s: int = GRACE_S,
    **limits: Any,
) -> Iterator[Program]:
    """`dsv4-chat serve` on a script, with other limits than its own where some are given."""
    file = tmp_path / "script.json"
    file.write_text(json.dumps(script), encoding="utf-8")
    code = (
        "import sys; from cli.app import main; import cli.serve.running as running\n"
        f"running.GRACE_S = {grace_s}\n"
        f"whole = running.HttpLimits; running.HttpLimits = lambda: whole(**{limits!r})\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["serve", "--engine", f"fake:{file}", "--port", "0", *options]
    environment = {**os.environ, "DSV4_HOME": str(tmp_path / "home")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " at http://127.0.0.1:" in line, line + process.stderr.read()
        yield Program(process, int(line.strip().rpartition(":")[2]))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_a_server_starts_answers_over_connections_and_ends(tmp_path: Path) -> None:
    with running(tmp_path) as program:
        status, body = program.ask("POST", CHAT, BODY)
        assert status == 200
        text = json.loads(body)["choices"][0]["message"]["content"]
        assert text == "One word after the other. " * 3
        status, stream = program.ask("POST", CHAT, {**BODY, "stream": True})
        assert status == 200 and stream.endswith(b"data: [DONE]\n\n")
        assert program.ask("GET", "/health")[0] == 200
        connection = program.connect()
        for _ in range(2):
            connection.request("POST", CHAT, json.dumps(BODY))
            assert connection.getresponse().read()
        connection.close()
        line = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
        both = line + b"\r\n" + line + b"connection: close\r\n\r\n"
        assert program.raw(both).count(b"HTTP/1.1 200 ") == 2
        errors = program.end()
    assert program.process.returncode == 0
    lines = errors.splitlines()
    assert len(lines) == 4 and all("stop, prompt" in line for line in lines), errors


def test_a_connection_rests_for_so_long_after_an_answer(tmp_path: Path) -> None:
    line = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with running(tmp_path, rest_s=0) as program:
        assert program.raw(line).startswith(b"HTTP/1.1 200 ")
    assert HttpLimits().rest_s > 120  # seconds for which Caddy keeps one


def test_a_signal_lets_an_answer_end(tmp_path: Path) -> None:
    slow = {"replies": [{"text": "One word more. ", "repeat": 30, "delay_ms": 5}]}
    with running(tmp_path, script=slow) as program:
        connection = program.connect()
        connection.request("POST", CHAT, json.dumps({**BODY, "stream": True}))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        program.process.send_signal(signal.SIGTERM)
        assert answer.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        assert "stop, prompt" in program.process.communicate(timeout=PATIENCE_S)[1]
    assert program.process.returncode == 0


@pytest.mark.slow
def test_an_answer_that_outlasts_the_server_ends_as_an_error(tmp_path: Path) -> None:
    endless = {"replies": [{"text": "One word more. ", "repeat": 20000, "delay_ms": 5}]}
    with running(tmp_path, script=endless, grace_s=0) as program:
        connection = program.connect()
        connection.request("POST", CHAT, json.dumps({**BODY, "stream": True}))
        answer = connection.getresponse()
        assert answer.readline().startswith(b"data: ")
        program.process.send_signal(signal.SIGTERM)
        last = answer.read().removesuffix(b"\n\n").rpartition(b"data: ")[2]
        assert "ask again" in json.loads(last)["error"]["message"]
        connection.close()
        program.process.communicate(timeout=PATIENCE_S)
    assert program.process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_second_signal_ends_a_server_that_answers(
    tmp_path: Path, number: int, status: int
) -> None:
    endless = {"replies": [{"text": "One word more. ", "repeat": 20000, "delay_ms": 5}]}
    with running(tmp_path, script=endless, grace_s=1000) as program:
        connection = program.connect()
        connection.request("POST", CHAT, json.dumps({**BODY, "stream": True}))
        answer = connection.getresponse()
        assert answer.status == 200 and answer.readline().startswith(b"data: ")
        program.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            program.process.wait(timeout=1)
        program.process.send_signal(number)
        program.process.communicate(timeout=PATIENCE_S)
        connection.close()
    assert program.process.returncode == status


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_after_a_restart_the_next_turn_reads_only_what_is_new(tmp_path: Path, number: int) -> None:
    question = {"role": "user", "content": "What does it say? " * 100}
    with running(tmp_path) as program:
        status, body = program.ask("POST", CHAT, {"messages": [question]})
        assert status == 200
        program.process.send_signal(number)
        program.process.communicate(timeout=PATIENCE_S)
    reply = json.loads(body)["choices"][0]["message"]
    messages = [question, reply, {"role": "user", "content": "And now?"}]
    with running(tmp_path) as program:
        usage = json.loads(program.ask("POST", CHAT, {"messages": messages})[1])["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.9 * usage["prompt_tokens"]


def test_an_address_that_is_taken_is_a_sentence() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="cannot be listened at"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_model_that_cannot_be_loaded_is_a_sentence(tmp_path: Path) -> None:
    done = run("serve", "--model", tmp_path, "--port", "0")
    assert done.status == 1 and done.stderr.count("\n") == 1


def test_a_connection_too_many_is_an_error_of_the_dialect_and_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path, connections=1) as program, closing(program.connect()) as first:
        first.request("GET", "/v1/models")
        assert first.getresponse().read()
        for path, status in ((CHAT, 503), ("/v1/messages", 529), ("/v1/responses", 503)):
            refused, body = program.ask("POST", path, BODY)
            error = json.loads(body)["error"]
            assert refused == status and "connections are open" in error["message"]
        first.request("GET", "/v1/models")
        assert first.getresponse().status == 200


# Bytes that are no requests

HOSTILE: dict[str, Sequence[bytes]] = {
    "nothing": (b"",),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),
    "line feeds": (b"\n\n\n\n",),
    "no version": (b"GET /health\r\n\r\n",),
    "two lengths": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    ),
    "length and chunks": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
    ),
    "bare line feed": (b"GET /health HTTP/1.1\nhost: localhost\n\n",),
    "huge line": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",),
    "huge header": (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000,),
    "many headers": (b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 40_000,),
    "bad chunk": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ),
    "negative length": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    ),
    "half a header": (b"POST /v1/chat/completions HT",),
    "bad path": (b"GET /\xff\xfe%zz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",),
    "no host": (b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n",),
    "upgrade": (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, close\r\n"
        b"upgrade: websocket\r\n\r\n",
    ),
}


def test_hostile_bytes_are_answered_or_closed_and_the_next_request_is_served(
    tmp_path: Path,
) -> None:
    with running(tmp_path, header_s=1.0, body_s=1.0, rest_s=1) as program:
        for name, pieces in HOSTILE.items():
            answer = program.raw(*pieces)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 "), name
            # One answer at most: what is smuggled behind a request is none.
            assert answer.count(b"HTTP/1.1 ") <= 1, (name, answer)
            assert b" 200 " not in answer.partition(b"\r\n")[0] or name in ("upgrade",), name
        assert program.ask("POST", CHAT, BODY)[0] == 200
        assert "Traceback" not in program.end()


@pytest.mark.slow
def test_a_header_that_does_not_come_is_waited_for_so_long(tmp_path: Path) -> None:
    with running(tmp_path, header_s=0.5) as program:
        for piece in (b"", b"GET / HTTP/1.1\r\nhost: "):
            assert program.raw(piece).startswith(b"HTTP/1.1 408 ")
        first = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        answer = program.raw(first, b"GET /hea")
        assert answer.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 408 " in answer
