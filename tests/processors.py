"""The numeric tests with the sums of other processors: `python -m tests.processors [ARGUMENTS]`.

OpenBLAS chooses its kernels by processor, and every kernel adds in another order. The numeric
groups run, after whatever `make test` ran with, under two more orders: those of two other kernel
types that this processor can run, and shuffled sums (tests/other_sums.py) where it has fewer.
Arguments go to pytest in place of the groups. Linux; elsewhere it says why nothing ran.
"""

import os
import subprocess
import sys

ORDERS = 2
# Chosen on machines with AVX2, with AVX, and on every x86-64 of the last fifteen years.
KERNEL_TYPES = ("Haswell", "Sandybridge", "Nehalem")
# Every group whose tests multiply matrices. Kernel texts run on a Metal of our own, without a BLAS.
GROUPS = ("tests/model", "tests/oracle", "tests/engine", "tests/training", "tests/convert")
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
    failed = False
    for environment in orders(own):
        [(name, value)] = environment.items()
        print(f"{name}={value} (this machine's own: {own} kernels)", flush=True)
        command = [sys.executable, "-m", "pytest", *(arguments or GROUPS)]
        failed |= subprocess.run(command, env=os.environ | environment).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
