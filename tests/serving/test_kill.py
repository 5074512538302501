"""kill -9 while an agent's conversation is served: the next turn after it reads hardly anything."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.chat.events import Done
from dsv4_mlx.serving.events import Collected, ServedEvent
from tests.serving.clients import Messages
from tests.serving.test_agents import following, message_of, reply, request, service

BEGINNING: Messages = [
    {"role": "system", "content": "You are an agent. Work well. " * 200},
    {"role": "user", "content": "What is in a.py?"},
]
FIRST_TURN = 24
"""From so many calls on a turn has ended for certain; kills before leave files that do no harm."""
_PROGRAM = """
import sys
from pathlib import Path
from tests.serving.test_kill import talk
talk(Path(sys.argv[1]), int(sys.argv[2]))
"""


def kill_at(folder: Path, calls: int) -> None:
    """Let the program kill itself at its n-th call that changes a file in `folder`: between two
    of them a kill leaves the same files behind."""
    left = calls

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove"):
            left -= str(arguments[0]).startswith(str(folder))
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Client(Collected):
    """Prints what it would ask next as soon as a reply ends, and the tokens that were held then."""

    def __init__(self, messages: Messages, turn: int) -> None:
        super().__init__()
        self.messages, self._turn = messages, turn

    def emit(self, answer: int, event: ServedEvent) -> None:
        super().emit(answer, event)
        if isinstance(event, Done):
            said = message_of(self.of())
            self.messages = [*self.messages, said, *following(said, self._turn)]
            held = event.usage.prompt_tokens + event.usage.completion_tokens
            print(json.dumps([held, self.messages]), flush=True)


def talk(folder: Path, calls: int) -> None:
    """Serve a conversation in `folder` until the kill."""
    serving, messages, turn = service(folder), BEGINNING, 0
    kill_at(folder, calls)
    while True:
        client = Client(messages, turn)
        serving.serve(request(client.messages), client)
        while serving.scheduler.step():
            pass
        messages, turn = client.messages, turn + 1


def kill_and_go_on(folder: Path, calls: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(calls)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    ended = run.stdout.splitlines()
    assert ended or calls < FIRST_TURN
    held, messages = json.loads(ended[-1]) if ended else (0, BEGINNING)
    said, done = reply(service(folder), request(messages))
    expected, _ = reply(service(), request(messages))
    for one in (said, expected):
        one["tool_calls"] = [call["function"] for call in one["tool_calls"]]
    assert said == expected
    if ended:
        assert done.usage.cached_tokens >= max(held, 0.9 * done.usage.prompt_tokens)


@pytest.mark.slow
@pytest.mark.parametrize("calls", range(0, FIRST_TURN + 60, 3))
def test_a_kill_loses_no_turn_that_its_client_knows_to_be_over(tmp_path: Path, calls: int) -> None:
    kill_and_go_on(tmp_path, calls)


@pytest.mark.soak
@pytest.mark.parametrize("calls", range(1, FIRST_TURN + 150, 3))
def test_a_kill_at_any_of_fifty_moments_loses_no_turn(tmp_path: Path, calls: int) -> None:
    kill_and_go_on(tmp_path, calls)
