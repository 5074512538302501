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
# Every group whose tests multiply matrices: of a conversion what measures a model, of the kernels'
# tests those of the references (texts run on a Metal of our own, without a BLAS).
GROUPS = (
    "tests/model",
    "tests/cache",
    "tests/weights",
    "tests/oracle",
    "tests/engine",
    "tests/training",
    "tests/convert/test_behaviour.py",
    "tests/convert/test_calibrate.py",
    "tests/convert/test_native.py::test_both_folders_have_one_fingerprint_and_the_same_logits",
    "tests/convert/test_unpacked.py",
    "tests/kernels/test_against_float64.py",
    "tests/kernels/test_golden.py",
    "tests/kernels/test_properties.py",
)
# Tests among these of which no product is computed, or only its time and memory count: files read,
# graphs traced, data made, failures of a model that computes nothing.
LEFT_OUT = (
    "tests/convert/test_calibrate.py::test_one_layer_is_in_memory_at_a_time",
    "tests/engine/test_failures.py::test_a_failure_costs_no_more_than_what_was_under_way",
    "tests/engine/test_session_model.py::test_memory_stays_flat",
    "tests/model/test_compiled.py::test_a_replayed_token_meets_the_forms_that_one_built_anew_meets",
    "tests/model/test_compiled.py::test_calls_that_fit_no_graph_are_the_models_own",
    "tests/model/test_compiled.py::test_three_kinds_of_tokens_are_three_graphs",
    "tests/model/test_faults.py::test_evaluating_only_logits_keeps_no_lazy_chain",
    "tests/training/data",
    "tests/training/test_plots.py",
    "tests/training/test_rewards.py",
    "tests/weights/test_bad_checkpoints.py",
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
        left_out = [f"--deselect={name}" for name in LEFT_OUT]
        command = [sys.executable, "-m", "pytest", *(arguments or [*GROUPS, *left_out])]
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
