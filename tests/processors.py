"""The numeric tests with the sums of other processors: `python -m tests.processors [ARGUMENTS]`.

OpenBLAS chooses its kernels by processor, and every kernel adds in another order. The numeric
groups run, after whatever `make test` ran with, under two more orders: those of two other kernel
types that this processor can run, and shuffled sums (tests/other_sums.py) where it has fewer.
All orders run at the same time, each on a core. Arguments go to pytest in place of the groups.
Linux; elsewhere it says why nothing ran.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ORDERS = 2
# Chosen on machines with AVX2, with AVX, and on every x86-64 of the last fifteen years.
KERNEL_TYPES = ("Haswell", "Sandybridge", "Nehalem")
# Every group whose tests multiply matrices. Of the kernels' tests those of the references: texts
# run on a Metal of our own, without a BLAS.
GROUPS = (
    "tests/model",
    "tests/cache",
    "tests/weights",
    "tests/oracle",
    "tests/engine",
    "tests/training",
    "tests/convert",
    "tests/kernels/test_against_float64.py",
    "tests/kernels/test_golden.py",
    "tests/kernels/test_properties.py",
)
# What answers, proved by a product that ran; an unknown instruction ends the process.
PROBE = """
from dsv4_mlx.blas import ensure_fast_blas, openblas
ensure_fast_blas()
blas = openblas.load()
if isinstance(blas, openblas.OpenBlas) and blas.answers_mlx():
    print(blas.kernel_type())
"""


def answering(kernel_type: str = "") -> str | None:
    """The kernel type that answers MLX when asked for one; None where no OpenBLAS of ours does."""
    asked = {"OPENBLAS_CORETYPE": kernel_type} if kernel_type else {}
    found = subprocess.run(
        [sys.executable, "-c", PROBE], env=os.environ | asked, stdout=subprocess.PIPE, text=True
    )
    return found.stdout.strip() or None


def orders(own: str) -> list[dict[str, str]]:
    """Environments of ORDERS test runs that add in another order than `own` kernels do."""
    found = []
    for kernel_type in KERNEL_TYPES:
        if kernel_type == own or len(found) == ORDERS:
            continue
        if answering(kernel_type) == kernel_type:
            found.append({"OPENBLAS_CORETYPE": kernel_type})
        else:
            print(f"left out: {kernel_type} kernels, which this processor cannot run", flush=True)
    shuffled = [{"DSV4_SUMS": str(number)} for number in range(1, ORDERS + 1)]
    return [*found, *shuffled[len(found) :]]


def main(arguments: list[str]) -> int:
    """Run the tests in every order; 1 where one failed."""
    own = answering()
    if own is None:
        print(
            "nothing run: the order of sums can be chosen only where scipy-openblas32 answers MLX"
        )
        return 0
    print(f"this machine's own: {own} kernels, which make test runs with", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        runs = [Run(order, arguments, Path(folder)) for order in orders(own)]
        return max([run.finish() for run in runs])


class Run:
    """pytest in an order of its own; what it says is kept in a file until it is through."""

    def __init__(self, order: dict[str, str], arguments: list[str], folder: Path):
        self._name = " ".join(f"{name}={value}" for name, value in order.items())
        self._said = folder / self._name
        print(f"started: {self._name}, some minutes; its output comes at its end", flush=True)
        command = [sys.executable, "-m", "pytest", *(arguments or GROUPS)]
        with self._said.open("wb") as file:
            self._process = subprocess.Popen(
                command, env=os.environ | order, stdout=file, stderr=subprocess.STDOUT
            )

    def finish(self) -> int:
        """Wait, say what pytest said; 1 where a test failed."""
        status = self._process.wait()
        print(f"\n{self._name}\n{self._said.read_text(errors='replace')}", flush=True)
        return int(status != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
