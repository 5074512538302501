"""The embedded model served by two ranks, over a socket: its text, who waits, leaves, its end."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.serving.disk_tier import LEAST_TOKENS
from tests.cli.running import run
from tests.cli.serve.test_socket import PATIENCE_S, Program
from tests.peers.meetings import free_ring
from tests.terminal.ranks import all_gone, hostfile, kill, ranks_of, wait_until

pytestmark = pytest.mark.slow

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
QUESTION = "What is 12 + 30?"


def asking(text: str = QUESTION, **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 24, **keys}


@contextmanager
def serving(
    home: Path, *logged: str, is_killed: bool = False
) -> Iterator[tuple[Program, list[int]]]:
    """A server of two ranks on this machine, once both run, and their processes; afterwards none
    is left, and its log has what is `logged`; one that `is_killed` inside ends there."""
    port = free_ring()[0][0].rpartition(":")[2]
    line = f"serve --hosts {hostfile(home)} --hosts-port {port} --port 0 --backend cpu --temp 0"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *line.split(), "--think", "none"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DSV4_HOME": str(home / "kept")},
    )
    ranks: list[int] = []
    try:
        assert process.stderr is not None
        address = process.stderr.readline()
        program = Program(process, int(address.strip().rpartition(":")[2]))
        wait_until(lambda: health(program) == "ready")
        ranks += ranks_of(process.pid)
        assert len(ranks) == 2
        yield program, ranks
        if is_killed:
            return
        ranks += ranks_of(process.pid)
        errors = program.end()
        assert process.returncode == 0 and all(words in errors for words in logged), errors
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        all_gone(ranks)


class Talk:
    """A conversation by ids of responses, at whichever server there is."""

    def __init__(self) -> None:
        self.latest, self.held = "", 0

    def says(self, program: Program, text: str) -> str:
        """One more turn; its answer, of a prompt in which nothing was read anew that stood in the
        turn before."""
        body = {"input": text, "max_output_tokens": 16, "previous_response_id": self.latest or None}
        status, answer = program.ask("POST", RESPONSES, body)
        assert status == 200, answer
        found = json.loads(answer)
        usage = found["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= self.held
        self.latest, self.held = found["id"], usage["total_tokens"] - 1
        assert self.held > LEAST_TOKENS  # fewer stay in memory alone
        return str(found["output"])


def test_a_killed_server_leaves_no_process_and_loses_no_turn(tmp_path: Path) -> None:
    talk = Talk()
    with serving(tmp_path, is_killed=True) as (program, ranks):
        talk.says(program, f"{QUESTION} " * 40)
        talk.says(program, "What is HCA?")
        under_way = streaming(program, "Tell me much", max_tokens=2000)
        kill(program.process.pid)
        assert program.process.wait(PATIENCE_S) == -signal.SIGKILL
        all_gone(ranks)
        under_way.close()
    with serving(tmp_path) as (program, ranks):
        talk.says(program, "How do I leave the chat?")
        kill(ranks[1])
        assert program.process.stderr is not None
        while "both ranks run" not in (line := program.process.stderr.readline()):
            assert line, "the server ended"
        talk.says(program, "And 15 + 30?")
        all_gone(ranks)


def health(program: Program) -> str:
    return str(json.loads(program.ask("GET", "/health")[1])["status"])


def said(program: Program) -> str:
    status, body = program.ask("POST", CHAT, asking())
    assert status == 200, body
    return str(json.loads(body)["choices"][0]["message"]["content"])


def streaming(program: Program, text: str, **keys: Any) -> http.client.HTTPConnection:
    """A request whose client reads the head of its stream."""
    connection = program.connect()
    connection.request("POST", CHAT, json.dumps(asking(text, stream=True, **keys)))
    assert connection.getresponse().readline()
    return connection


def test_two_ranks_serve_the_text_of_one_one_request_at_a_time(tmp_path: Path) -> None:
    line = ["-p", QUESTION, "--temp", "0", "--think", "none", "--backend", "cpu", "--no-save"]
    alone = run(*line, "--max-tokens", "24", "--plain").stdout.strip()
    with serving(tmp_path, "cancelled") as (program, ranks):
        assert said(program) == alone != ""
        first = streaming(program, QUESTION + " word" * 4000)
        second = program.connect()
        second.request("POST", CHAT, json.dumps(asking()))
        wait_until(lambda: json.loads(program.ask("GET", "/health")[1])["waiting"] == 1)
        first.close()  # whose prompt is read for long; its read ends with it
        answer = json.loads(second.getresponse().read())
        assert answer["choices"][0]["message"]["content"] == alone
        second.close()
        assert health(program) == "ready" and ranks_of(program.process.pid) == ranks


def test_a_killed_rank_is_a_sentence_and_both_come_again(tmp_path: Path) -> None:
    with serving(tmp_path) as (program, ranks):
        before = said(program)
        kill(ranks[1])
        wait_until(lambda: health(program) == "lost")
        status, body = program.ask("POST", MESSAGES, asking(model="nano"))
        error = json.loads(body)
        assert status == 529 and error["type"] == "error"
        assert error["error"]["message"].startswith("rank 1 (")
        assert error["error"]["message"].endswith("both ranks are started again, ask again soon.")
        wait_until(lambda: health(program) == "ready")
        assert said(program) == before
        all_gone(ranks)


def test_a_signal_while_both_load_leaves_nothing(tmp_path: Path) -> None:
    port = free_ring()[0][0].rpartition(":")[2]
    line = f"serve --hosts {hostfile(tmp_path)} --hosts-port {port} --port 0 --backend cpu"
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *line.split(), "--no-save"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and " at http" in process.stderr.readline()
    wait_until(lambda: len(ranks_of(process.pid)) == 2)
    ranks = ranks_of(process.pid)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    all_gone(ranks)
