"""What importing the package brings along: little, until it is used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = {"mlx_lm", "transformers", "torch", "scipy_openblas32", "huggingface_hub"}
REPORT = "import sys; print(*sys.modules, sep='\\n')"


def modules_after(code: str) -> set[str]:
    """The top-level names in sys.modules of a fresh interpreter that ran `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


def test_importing_the_package_does_no_work() -> None:
    assert modules_after("import dsv4_mlx").isdisjoint({"mlx", "numpy", "ctypes", *SLOW_TO_IMPORT})


def test_the_public_names_leave_the_slow_libraries_alone() -> None:
    code = "import dsv4_mlx; [getattr(dsv4_mlx, name) for name in dsv4_mlx.__all__]"
    assert modules_after(code).isdisjoint(SLOW_TO_IMPORT)


def test_chat_text_runs_without_mlx() -> None:
    code = "import dsv4_mlx.chat.messages, dsv4_mlx.chat.encoding, dsv4_mlx.chat.parsing"
    assert modules_after(code).isdisjoint({"mlx", *SLOW_TO_IMPORT})
