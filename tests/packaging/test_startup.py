"""Starting the program leaves the slow libraries alone. Seconds: benchmarks/startup.py."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = ("mlx_lm", "transformers", "torch", "scipy_openblas32", "huggingface_hub")
REPORT = "import sys; print(*sys.modules, sep='\\n')"


def modules_after(code: str) -> set[str]:
    """The top-level names in sys.modules of a fresh interpreter that ran `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    "code",
    [
        "from cli.app import main; assert main(['--version']) == 0",
        "import dsv4_mlx; dsv4_mlx.load; dsv4_mlx.Engine",
        "import dsv4_mlx.chat.conversation, cli.repl",
    ],
    ids=["version", "load", "prompt"],
)
def test_the_slow_libraries_are_not_imported(code: str) -> None:
    assert modules_after(code).isdisjoint(SLOW_TO_IMPORT)


def test_importing_the_package_does_no_work() -> None:
    assert modules_after("import dsv4_mlx").isdisjoint({"mlx", "numpy", *SLOW_TO_IMPORT})


def test_chat_text_runs_without_mlx() -> None:
    code = "import dsv4_mlx.chat.messages, dsv4_mlx.chat.encoding, dsv4_mlx.chat.parsing"
    assert modules_after(code).isdisjoint({"mlx", *SLOW_TO_IMPORT})
