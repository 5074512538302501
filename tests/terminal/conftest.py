"""Programs that scenarios share: started once, and anew when one ended or failed a scenario."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.terminal.driver import Terminal, chat


class Shared:
    """One program for a whole module."""

    def __init__(self, start: Callable[[], Terminal]) -> None:
        self._start = start
        self._running: Terminal | None = None

    def get(self) -> Terminal:
        """The running program, its screen cleared but for the prompt."""
        if self._running is None:
            self._running = self._start()
            self._running.wait_for_line(">")
        else:
            self._running.type("\x0c")
            self._running.wait_until(lambda: len(self._running.text.splitlines()) == 2, "clear")
        return self._running

    def end(self) -> None:
        """The next `get` starts another."""
        if self._running is not None:
            self._running.__exit__()
            self._running = None


@pytest.fixture(scope="module")
def sharing() -> Iterator[Callable[[str, Callable[[], Terminal]], Shared]]:
    """`sharing(name, start)`: the program of that name."""
    programs: dict[str, Shared] = {}
    yield lambda name, start: programs.setdefault(name, Shared(start))
    for program in programs.values():
        program.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


@pytest.fixture
def borrowed(
    request: pytest.FixtureRequest, sharing: Callable[[str, Callable[[], Terminal]], Shared]
) -> Iterator[Callable[[str, Callable[[], Terminal]], Terminal]]:
    """`borrowed(name, start)`: a shared program, given up when the scenario fails or ends it."""
    used: list[Shared] = []

    def borrow(name: str, start: Callable[[], Terminal]) -> Terminal:
        used.append(sharing(name, start))
        return used[-1].get()

    yield borrow
    for program in used:
        if request.node.stash.get(FAILED, True):
            program.end()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder of its own."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def own(tmp_path: Path) -> Callable[..., Terminal]:
    """`own(*replies, **options)`: a program that this scenario alone uses, at its prompt."""
    running: list[Terminal] = []

    def start(
        *replies: object, arguments: tuple[str, ...] = (), prompt: str = ">", **options
    ) -> Terminal:
        script = {"replies": list(replies)} | options.pop("script", {})
        running.append(chat(tmp_path, script, *arguments, **options))
        running[-1].wait_for_line(prompt)
        return running[-1]

    yield start
    for terminal in running:
        terminal.__exit__()
