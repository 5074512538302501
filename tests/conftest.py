"""What every test gets: a seed of its own, a known BLAS, and a summary that hides no gap.

Groups that a machine cannot run (no torch, no Apple GPU) are skipped and counted with the reason.
DSV4_REQUIRE names groups that must run here, `DSV4_REQUIRE=parity,metal`: a missing one ends the
run. DSV4_SUMS=1, or any number, adds up float32 products in another order (CONTRIBUTING.md).
`--update-golden` (`make pages`) rewrites what the `golden` fixture compares with; read the
difference.
`make` runs one process per core (pytest-xdist); what each counts is added up in the first one.
"""

import importlib
import importlib.util
import itertools
import os
import random
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Test products are tiny: threads would only wait for each other. Read when OpenBLAS is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from dsv4_mlx import blas
from tests import other_sums

if os.environ.get("DSV4_SUMS"):
    other_sums.load(int(os.environ["DSV4_SUMS"]))
blas.ensure_fast_blas()

import hypothesis
import mlx.core as mx
import numpy as np
import pytest

from tests import examples, extras
from tests.kernels import nvrtc, runner_work
from tests.metalhost import ToolchainError, toolchain

# Groups that `make test` leaves to a command of their own.
APART = ("slow", "parity", "nvrtc", "soak")
GOLDEN = Path(__file__).parent / "golden"
LEFT_OUT: Counter[str] = Counter()
_HOMES = itertools.count()

# The same examples everywhere, and no limit on the time of one: machines differ.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def _without(*modules: str) -> str | None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else None


# Why this machine cannot run a group; None where it can.
GROUPS: dict[str, Callable[[], str | None]] = {
    "parity": lambda: _without("torch", "transformers", "mlx_vlm"),
    "nvrtc": nvrtc.missing,
    "metal": lambda: None if mx.metal.is_available() else "no Apple GPU",
    "cuda": lambda: None if mx.cuda.is_available() else "no NVIDIA GPU",
    "terminal": lambda: _without("pexpect", "pyte"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Shells start background jobs with Ctrl-C ignored, and programs under test would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    examples.SLOW = config.option.markexpr == "slow"
    for group in _required():
        if group not in GROUPS:
            raise pytest.UsageError(f"DSV4_REQUIRE: {group} is not one of {', '.join(GROUPS)}.")
        if reason := GROUPS[group]():
            raise pytest.UsageError(f"DSV4_REQUIRE wants the {group} tests: {reason}.")


def _required() -> list[str]:
    return [name for name in os.environ.get("DSV4_REQUIRE", "").split(",") if name]


def pytest_report_header() -> list[str]:
    from metal_kernels import registry

    packages = ("mlx", "mlx-lm", "transformers", "mlx-vlm", "torch")
    return [
        f"backend: {registry.plan('auto').backend}; BLAS: {blas.name()}{_shuffled()}",
        "references: " + ", ".join(f"{name} {_version(name)}" for name in packages),
    ]


def _shuffled() -> str:
    number = os.environ.get("DSV4_SUMS")
    return f", its sums shuffled (order {number})" if number else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {group: reason for group, why in GROUPS.items() if (reason := why())}
    for item in items:
        for group, reason in reasons.items():
            if item.get_closest_marker(group):
                item.add_marker(pytest.mark.skip(reason=f"{group}: {reason}"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A run of one group imports only the files that name it; importing them all takes longer than
    some groups."""
    group = config.option.markexpr
    if group not in APART or collection_path.suffix != ".py":
        return None
    return group not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection(session: pytest.Session) -> None:
    """Where nothing is compiled yet, all processes would compile the same files at the same time,
    half a minute each: every one begins at another, and finds what the others did."""
    number, count = _process()
    if count < 2 or session.config.args != session.config.getini("testpaths"):
        return
    files = sorted(Path(__file__).parent.rglob("test_*.py"))
    first = len(files) * number // count
    for path in [*files[first:], *files[:first]] if number else ():
        name = ".".join(path.relative_to(session.config.rootpath).with_suffix("").parts)
        with suppress(Exception, pytest.skip.Exception):  # collecting it says what is wrong
            importlib.import_module(name)


def _process() -> tuple[int, int]:
    """The number of this process of pytest-xdist, and how many there are."""
    name, count = (os.environ.get(f"PYTEST_XDIST_WORKER{end}", "") for end in ("", "_COUNT"))
    return int(name.removeprefix("gw") or 0), int(count or 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    for marker in item.iter_markers("needs"):
        if extras.wanted(marker.args[0]):
            _aloud(item, marker.args[0])
    return (yield)


def _aloud(item: pytest.Item, extra: str) -> None:
    """Install an extra, before the time limit of a test begins, so that a person sees it."""
    with item.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        extras.install(extra, say=lambda line: print(f"\n{line}", file=sys.stderr, flush=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from _where_texts_run())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from _where_texts_run())


def _where_texts_run() -> Iterator[None]:
    """Metal texts run on some machines alone; elsewhere a test that meets one is skipped."""
    try:
        return (yield)
    except ToolchainError:
        if reason := toolchain.unsupported():
            pytest.skip(reason)
        raise


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        for group in APART:
            if item.get_closest_marker(group):
                LEFT_OUT[f"{group}: make {group} runs them"] += 1
                break


def pytest_collection_finish(session: pytest.Session) -> None:
    shortened = [one for one in session.items if _is_shortened(one)]
    if shortened:
        LEFT_OUT["slow: more examples of tests that ran; make slow runs them"] = len(shortened)


def _is_shortened(item: pytest.Item) -> bool:
    return getattr(getattr(item, "obj", None), "has_more_examples", False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if sent := getattr(session.config, "workeroutput", None):
        sent["left out"] = dict(LEFT_OUT)
        sent["work"] = runner_work.sent()
    elif runner_work.exceeded():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of several is through; each of them left out the same tests."""
    sent = getattr(node, "workeroutput", {})  # absent where the process died
    LEFT_OUT.update(Counter(sent.get("left out", {})) - LEFT_OUT)
    runner_work.add_sent(sent.get("work", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in runner_work.summary():
        terminalreporter.write_line(line)
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"
        LEFT_OUT[reason.removeprefix("Skipped: ")] += 1
    for reason, count in sorted(LEFT_OUT.items()):
        terminalreporter.write_line(f"not run: {count:5} {reason}")


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Random numbers that depend on the test's own name, not on what ran before it."""
    seed = zlib.crc32(request.node.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    mx.random.seed(seed)


@pytest.fixture(autouse=True)
def _own_conversations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the chat program keeps, in a folder that only this test has."""
    root = tmp_path_factory.getbasetemp() / "conversations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSV4_HOME", str(root / str(next(_HOMES))))
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("help/dsv4-chat.txt", text)`: equal to the file, or rewritten on demand."""

    def check(name: str, text: str) -> None:
        file = GOLDEN / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.encode())
        assert text == file.read_bytes().decode(), "run make pages and read the difference"

    return check
