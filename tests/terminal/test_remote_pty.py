"""Scenarios of the program on a terminal, once more with the model of a running server."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import test_app_pty as app
from tests.terminal import test_draft_pty as drafts
from tests.terminal import test_endings_pty as endings
from tests.terminal.driver import Terminal
from tests.terminal.steps import idle, leave, send

pytestmark = [pytest.mark.terminal, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
LOCAL = {endings.test_a_crash_of_the_engine_leaves_a_terminal_that_works}
"""A crash of the server's engine is the server's: it ends no terminal, see below."""
SCENARIOS: list[Callable[..., None]] = [
    scenario
    for module in (app, drafts, endings)
    for name, scenario in vars(module).items()
    if name.startswith("test_") and scenario not in LOCAL
]


class Served:
    """A server that follows a script, and stays where it was when it is started anew."""

    def __init__(self, script: dict[str, Any], home: Path) -> None:
        self._home, self._port = home, 0
        self.start(script)

    def start(self, script: dict[str, Any]) -> None:
        """At first, and once it ended."""
        file = self._home / "script.json"
        file.write_text(json.dumps(script), encoding="utf-8")
        command = ["-m", "cli", "serve", "--engine", f"fake:{file}"]
        self._program = subprocess.Popen(
            [sys.executable, *command, "--port", str(self._port)],
            cwd=self._home,
            env=os.environ | {"PYTHONPATH": str(ROOT), "DSV4_HOME": str(self._home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        place = self.line(r" at (http://127\.0\.0\.1:(\d+))")
        self.url, self._port = place[1], int(place[2])

    def line(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """The next of its lines that has `pattern`."""
        assert self._program.stderr is not None
        said, found = [], None
        while found is None:
            said.append(self._program.stderr.readline())
            assert said[-1], "".join(said)  # it ended
            found = re.search(pattern, said[-1])
        return found

    def end(self) -> None:
        """Kill it; twice is once."""
        assert self._program.stderr is not None
        self._program.kill()
        self._program.wait()
        self._program.stderr.close()


Serve = Callable[[dict[str, Any]], Served]


def serving(home: Path) -> Iterator[Serve]:
    """`served(script)`: a server that follows it, the same one for the same script."""
    running: dict[str, Served] = {}

    def start(script: dict[str, Any]) -> Served:
        text = json.dumps(script)
        if text not in running:
            folder = home / f"server{len(running)}"
            folder.mkdir()
            running[text] = Served(script, folder)
        return running[text]

    yield start
    for server in running.values():
        server.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The servers of several scenarios."""
    yield from serving(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The servers of one scenario."""
    yield from serving(tmp_path_factory.mktemp("served"))


@pytest.fixture
def own(tmp_path: Path, served: Serve, shared: Serve) -> Iterator[Callable[..., Terminal]]:
    """As in `test_app_pty`, the script followed by a server."""
    running: list[Terminal] = []

    def start(
        *replies: object, arguments: tuple[str, ...] = (), prompt: str = ">", **options: Any
    ) -> Terminal:
        script = {"replies": list(replies)} | options.pop("script", {})
        server = (shared if script == app.TALK else served)(script)
        running.append(talking(server, tmp_path, *arguments, **options))
        running[-1].wait_for_line(prompt)
        return running[-1]

    yield start
    for terminal in running:
        terminal.__exit__()


def talking(server: Served, home: Path, *arguments: str, **options: Any) -> Terminal:
    """The program with the model of `server`."""
    command = [sys.executable, "-m", "cli", "--server", server.url, *arguments]
    variables = {"PYTHONPATH": str(ROOT)} | options.pop("variables", {})
    return Terminal(command, home=home, variables=variables, **options)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__.removeprefix("test_"))
def test_a_scenario_goes_as_with_a_model_of_ones_own(
    scenario: Callable[..., None],
    own: Callable[..., Terminal],
    served: Serve,
    tmp_path: Path,
) -> None:
    wanted = inspect.signature(scenario).parameters
    given: dict[str, Callable[[], Any]] = {
        "own": lambda: own,
        "tmp_path": lambda: tmp_path,
        "talk": lambda: own(script=app.TALK),
        "started": lambda: lambda: talking(served(drafts.SCRIPT), tmp_path),
    }
    scenario(**{name: given[name]() for name in wanted})


def test_a_crash_of_the_servers_engine_is_one_sentence_and_the_talk_goes_on(own) -> None:
    app.goes_on_after({"crash": "unforeseen"}, "The model failed: unforeseen", own)


READ = re.compile(r" prompt (?P<prompt>[\d,]+) = (?P<kept>[\d,]+) kept \+ (?P<read>[\d,]+) read,")
"""What the server's line about a request tells of its prompt."""
ENDLESS = {"text": "on and on ", "repeat": 9_000, "delay_ms": 1}


def test_a_killed_program_is_resumed_and_the_server_reads_only_what_is_new(
    served: Serve, tmp_path: Path
) -> None:
    server = served({"replies": ["Answer one.", ENDLESS]})
    with talking(server, tmp_path) as terminal:
        terminal.wait_for_line(">")
        send(terminal, "question", "Answer one.")
        send(terminal, "/rename sky talk", "sky talk")
        terminal.type("and on\r")
        terminal.wait_for("on and on on and on")
        terminal.kill(signal.SIGKILL)
        terminal.wait_for_end()
    server.line(r", cancelled, ")
    with talking(server, tmp_path, "--resume", "sky talk") as again:
        again.wait_for_line("> and on")
        again.type("\r")
        again.wait_for("on and on on and on")
        again.type("\x03")
        again.wait_for("[stopped]")
        idle(again)
        leave(again)
    assert server.line(READ)["read"] == "1"


def test_a_server_that_is_killed_in_an_answer_takes_nothing_of_the_talk(
    served: Serve, tmp_path: Path
) -> None:
    server = served({"replies": ["Answer one.", ENDLESS]})
    with talking(server, tmp_path) as terminal:
        terminal.wait_for_line(">")
        terminal.paste("\n".join(f"line {number} of many" for number in range(200)))
        terminal.type("\r")
        terminal.wait_for("Answer one.")
        idle(terminal)
        terminal.type("and on\r")
        terminal.wait_for("on and on on and on")
        server.end()
        terminal.wait_for(f"dsv4-chat: {server.url} ended in the middle of an answer")
        idle(terminal)
        assert "on and on on and on" in terminal.text
        send(terminal, "still there?", f"dsv4-chat: {server.url} does not answer")
        terminal.wait_for_line("> still there?")
        server.start({"replies": ["Answer one.", "Answer two."]})
        terminal.type("\x15\x1b[A\x1b[A")
        terminal.wait_for_line("> and on")
        terminal.type(", please\r")
        terminal.wait_for("> and on, please\n\nAnswer two.")
        idle(terminal)
        send(terminal, "/branches", "* main  2 turns  and on, please")
        leave(terminal)
        assert terminal.whole_text.count("dsv4-chat: ") == 2
    assert int(server.line(READ)["kept"].replace(",", "")) > 1_000
