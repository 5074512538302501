"""The whole report: on the CPU plan in small sizes, and with parts that crash, hang and stop it."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.report import __main__ as report
from benchmarks.report import schedule, verdict
from benchmarks.report.schedule import Part
from metal_kernels import registry
from tests.benchmarks.report.broken import Broken, read

SMALL = ["--backend", "cpu", "--small", "--rounds", "1"]
# What `make report` installs is the program alone; these come with the tests.
OF_TESTS = ("pytest", "hypothesis", "pexpect", "pyte", "xdist", "pytest_timeout", "mcp")


@pytest.fixture(autouse=True)
def same_signals_afterwards() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def whole(folder: Path, *parts: Part, arguments: Sequence[str] = SMALL) -> int:
    """Run a report of these parts."""
    options = report.parsed([*arguments, "--out", str(folder)])
    return report.whole(options, lambda *_: iter(parts))


def test_a_machine_without_a_gpu_gets_one_sentence_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if registry.plan("auto").backend != "cpu":
        pytest.skip("this machine has a GPU")
    monkeypatch.delenv("DSV4_BACKEND", raising=False)
    assert report.main(["--out", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == report.NO_GPU + "\n"
    assert report.NO_GPU.count(".") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_absent_backend_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = next(name for name in ("cuda", "metal") if name not in registry_backends())
    assert report.main(["--backend", absent, "--out", str(tmp_path / "new")]) == 1
    assert f"expected the {absent} backend" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def registry_backends() -> tuple[str, ...]:
    from metal_kernels import backend

    return backend.available()


def test_parts_that_crash_hang_and_stop_leave_what_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this order: a kernel that is right, a crash, a hang, Ctrl-C, and what is not begun."""
    parts = [
        Part("kernel:expert_sum", 1e6),
        Broken("abort", 1e6),
        Broken("hang", 0.0),
        Broken("stop the report", 1e6),
        Part("nano", 1e6),
    ]
    assert whole(tmp_path, *parts) == report.INTERRUPTED
    found, page = read(tmp_path)
    states = {part["name"]: part["state"] for part in found["parts"]}
    assert states == {
        "machine": "done",
        "kernel:expert_sum": "done",
        "abort": "failed",
        "hang": "hung",
        "stop the report": "interrupted",
    }
    assert verdict.sound(found) == ["expert_sum"]
    assert {row["how"] for row in verdict.rows(found, "told")} >= {"abort", "stop the report"}
    assert "| expert_sum | 3 of 3 right |" in page
    assert "abort failed at “about to abort” (ended by SIGABRT)" in page
    assert "hang did not end" in page and "stop the report was interrupted" in page
    assert "stopped; what was learnt is in" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}


def test_the_report_stops_for_a_signal_of_the_system_too(tmp_path: Path) -> None:
    whole(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler


@pytest.mark.slow
def test_what_is_right_ends_well_and_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The speeds, one kernel and the layers, each in its process, as the schedule orders them."""
    only = "speeds+kernel:expert_sum+decode+prefill+heat+peer"
    assert report.main([*SMALL, "--only", only, "--out", str(tmp_path)]) == 0
    found, page = read(tmp_path)
    assert "Everything that was run is right: 1 kernels in 3 cases." in capsys.readouterr().out
    for title in ("This machine", "Kernels", "Decoding, 2 layers after 40", "Reading a prompt"):
        assert f"\n## {title}" in page
    assert "Floor, counted for Metal:" in page and "Heat:" in page
    ways = [row["choices"] for row in verdict.rows(found, "decode")]
    assert ways == [["default", "unwired"], ["ours", "unwired"]]
    assert {row["tokens"] for row in verdict.rows(found, "prefill")} == {16, 32}


def test_a_part_needs_no_package_of_the_tests(tmp_path: Path) -> None:
    """Every part is imported, and one is run, where those packages are not to be had."""
    arguments = [*SMALL, "--part", "kernel:expert_sum", "--out", str(tmp_path)]
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {OF_TESTS}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from benchmarks.report import __main__, schedule\n"
        "for name in schedule.FUNCTIONS:\n"
        "    schedule.function(name)\n"
        f"sys.exit(__main__.main({arguments}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=schedule.ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"kind": "case"') == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_report_on_the_cpu_plan(tmp_path: Path) -> None:
    assert report.main([*SMALL, "--out", str(tmp_path)]) == 0
    found, page = read(tmp_path)
    assert verdict.sound(found) == list(registry.NAMES)
    planned = schedule.planned("cpu", registry.NAMES, lambda: registry.NAMES)
    assert [part["name"] for part in found["parts"]] == ["machine", *(p.name for p in planned)]
    assert all(part["state"] == "done" for part in found["parts"])
    assert "and nano answers as on the CPU." in page and len(page) < 16_000
