"""OpenBLAS answers MLX's CPU products on Linux, and gives the right numbers for every layout.

The order of imports matters here, so most of it runs in processes of its own.
"""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")

NAME = "from dsv4_mlx import blas\nprint(blas.name())"
PRODUCTS = """
import dsv4_mlx.blas as blas
blas.ensure_fast_blas()
import mlx.core as mx, numpy as np
mx.set_default_device(mx.cpu)
rng = np.random.default_rng(0)
for m, n, k in [(1, 1, 1), (1, 5, 3), (7, 1, 2), (3, 4, 5), (65, 33, 129), (128, 96, 64)]:
    for trans_a in (False, True):
        for trans_b in (False, True):
            a = rng.standard_normal((k, m) if trans_a else (m, k)).astype(np.float32)
            b = rng.standard_normal((n, k) if trans_b else (k, n)).astype(np.float32)
            c = rng.standard_normal((m, n)).astype(np.float32)
            x, y = mx.array(a), mx.array(b)
            x, y = (x.T if trans_a else x), (y.T if trans_b else y)
            left, right = (a.T if trans_a else a), (b.T if trans_b else b)
            want = left.astype(np.float64) @ right
            np.testing.assert_allclose(np.array(x @ y), want, rtol=1e-4, atol=1e-4)
            got = np.array(mx.addmm(mx.array(c), x, y, alpha=0.5, beta=-2.0))
            np.testing.assert_allclose(got, 0.5 * want - 2.0 * c, rtol=1e-4, atol=1e-4)
# Row strides larger than the row, and a batch.
wide = rng.standard_normal((2, 20, 40)).astype(np.float32)
left, right = wide[:, :9, 3:17], wide[:, 2:16, 5:30]
got = np.array(mx.array(wide)[:, :9, 3:17] @ mx.array(wide)[:, 2:16, 5:30])
np.testing.assert_allclose(got, left.astype(np.float64) @ right, rtol=1e-4, atol=1e-4)
z = (rng.standard_normal((6, 8)) + 1j * rng.standard_normal((6, 8))).astype(np.complex64)
np.testing.assert_allclose(np.array(mx.array(z) @ mx.array(z).T), z @ z.T, rtol=1e-4, atol=1e-4)
print(blas.name())
"""


def run(code: str, **environment: str) -> str:
    """What `code` prints in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
def test_openblas_answers_when_dsv4_mlx_comes_first() -> None:
    assert run(NAME).startswith("OpenBLAS 0.3.")


@linux
def test_the_import_hook_loads_openblas_before_mlx() -> None:
    hook = "from dsv4_mlx.before_mlx import precede_mlx\nprecede_mlx()\nimport mlx.core\n"
    assert run(hook + NAME).startswith("OpenBLAS 0.3.")


@linux
def test_the_threads_are_the_users_choice() -> None:
    for wanted, phrase in (("1", "1 thread"), ("2", "2 threads")):
        found = run(NAME, OPENBLAS_NUM_THREADS=wanted)
        assert found.endswith(f" kernels, {phrase})")


@linux
def test_the_name_says_whose_kernels_answer() -> None:
    """Not those asked for where OpenBLAS has none of that name."""
    own = run(NAME, OPENBLAS_CORETYPE="").split("(")[1]
    assert own.startswith("scipy-openblas32, ") and " kernels, " in own
    assert run(NAME, OPENBLAS_CORETYPE="Nobody").split("(")[1] == own
    if platform.machine() == "x86_64":
        named = run(NAME, OPENBLAS_CORETYPE="Nehalem")
        assert "(scipy-openblas32, Nehalem kernels, " in named


@linux
def test_mlx_imported_first_keeps_its_own_blas_and_the_name_says_so() -> None:
    assert run("import mlx.core\n" + NAME) == (
        "MLX bundled reference BLAS (mlx.core was imported before dsv4_mlx)"
    )


@linux
def test_without_a_compiler_the_name_says_what_is_missing(tmp_path: Path) -> None:
    found = run(NAME, CC="", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert found.startswith("MLX bundled reference BLAS (no C compiler was found")


@linux
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the cache folder should go")
    found = run(NAME, XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert found.startswith("OpenBLAS 0.3.")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@linux
def test_processes_that_start_together_share_one_shim(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(run(NAME, XDG_CACHE_HOME=str(tmp_path))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(name.startswith("OpenBLAS 0.3.") for name in found)
    assert len(list((tmp_path / "dsv4-mlx").iterdir())) == 1


@linux
def test_products_of_every_layout_match_numpy() -> None:
    assert run(PRODUCTS).startswith("OpenBLAS 0.3.")


@linux
def test_two_streams_may_multiply_at_once() -> None:
    import mlx.core as mx

    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 192, 192)).astype(np.float32)
    streams = [mx.new_stream(mx.cpu) for _ in range(2)]
    results = [mx.matmul(mx.array(a), mx.array(b), stream=streams[turn % 2]) for turn in range(40)]
    mx.eval(results)
    for result in results:
        np.testing.assert_allclose(np.array(result), a @ b, rtol=1e-3, atol=1e-3)


@linux
def test_shuffled_sums_are_right_and_differ_in_their_last_bits() -> None:
    """What DSV4_SUMS gives the tests: one order per number, the same in every process."""
    shuffled = "from tests import other_sums\nother_sums.load({number})\n"
    bits = "\nprint(np.array(mx.array(left[0]) @ mx.array(right[0])).tobytes().hex())"
    found = [run(shuffled.format(number=n) + PRODUCTS + bits).splitlines()[-1] for n in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
