"""Scenarios of the program on a terminal, once more with the model of a running server."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import test_app_pty as app
from tests.terminal.driver import Terminal

pytestmark = [pytest.mark.terminal, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SCENARIOS: tuple[Callable[..., None], ...] = (
    app.test_undo_gives_the_message_back_and_retry_tries_other_luck,
    app.test_edit_takes_an_earlier_message_up_again,
    app.test_a_fork_goes_on_beside_its_parent,
    app.test_an_engine_error_is_one_sentence_and_the_talk_goes_on,
    app.test_a_kill_loses_at_most_the_answer,
    app.test_sigterm_in_an_answer_keeps_what_was_said,
    app.test_a_closed_window_keeps_what_was_said,
    app.test_a_session_is_named_found_and_loaded,
    app.test_files_go_along_and_binaries_do_not,
    app.test_a_tool_asks_and_shows_what_it_would_do,
    app.test_hostile_text_stays_text,
    app.test_reasoning_folds_and_markdown_is_drawn,
    app.test_reasoning_ends_at_its_budget,
    app.test_typing_ahead_is_echoed_while_it_answers,
    app.test_a_command_runs_after_a_yes,
    app.test_a_long_prompt_shows_a_bar,
    app.test_ctrl_c_stops_the_answer_and_keeps_the_turn,
    app.test_shift_tab_changes_the_thinking_level,
)


class Served:
    """A server that follows a script, and stays where it was when it is started anew."""

    def __init__(self, script: Path, home: Path, port: int = 0) -> None:
        command = ["-m", "cli", "serve", "--engine", f"fake:{script}", "--port", str(port)]
        self._program = subprocess.Popen(
            [sys.executable, *command],
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(ROOT), "DSV4_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._program.stderr is not None
        said, found = [], None
        while found is None:
            said.append(self._program.stderr.readline())
            assert said[-1], "".join(said)  # it ended
            found = re.search(r" at (http://127\.0\.0\.1:(\d+))", said[-1])
        self.url, self.port = found[1], int(found[2])

    def end(self) -> None:
        """Kill it; twice is once."""
        assert self._program.stderr is not None
        self._program.kill()
        self._program.wait()
        self._program.stderr.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """`served(script)`: a server that follows it."""
    running: list[Served] = []

    def start(script: dict[str, Any], port: int = 0) -> Served:
        file = tmp_path / "served.json"
        file.write_text(json.dumps(script), encoding="utf-8")
        home = tmp_path / f"server{port or len(running)}"
        home.mkdir(exist_ok=True)
        running.append(Served(file, home, port))
        return running[-1]

    yield start
    for server in running:
        server.end()


@pytest.fixture
def own(tmp_path: Path, served: Callable[..., Served]) -> Iterator[Callable[..., Terminal]]:
    """As in `test_app_pty`, the script followed by a server."""
    running: list[Terminal] = []

    def start(
        *replies: object, arguments: tuple[str, ...] = (), prompt: str = ">", **options: Any
    ) -> Terminal:
        server = served({"replies": list(replies)} | options.pop("script", {}))
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
    scenario: Callable[..., None], own: Callable[..., Terminal], tmp_path: Path
) -> None:
    wanted = inspect.signature(scenario).parameters
    given: dict[str, Callable[[], Any]] = {
        "own": lambda: own,
        "tmp_path": lambda: tmp_path,
        "talk": lambda: own(script=app.TALK),
    }
    scenario(**{name: given[name]() for name in wanted})


def test_a_server_that_is_started_anew_goes_on(
    served: Callable[..., Served], tmp_path: Path
) -> None:
    script = {"replies": ["Answer one.", "Answer two."]}
    server = served(script)
    with talking(server, tmp_path) as terminal:
        terminal.wait_for_line(">")
        app.send(terminal, "question", "Answer one.")
        server.end()
        app.send(terminal, "and on", f"dsv4-chat: {server.url} does not answer")
        served(script, server.port)
        terminal.type("\x15")
        app.send(terminal, "go on", "Answer two.")
        app.leave(terminal)
