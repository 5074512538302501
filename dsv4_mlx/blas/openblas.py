"""Load OpenBLAS under the plain CBLAS names, and find out which BLAS answers MLX."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dsv4_mlx.blas import build
from dsv4_mlx.blas.build import NotBuilt

_BUNDLED = "MLX bundled reference BLAS"
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class OpenBlas:
    """The loaded library, and the shim that gives it the plain CBLAS names."""

    library: ctypes.CDLL
    shim: ctypes.CDLL

    def describe(self) -> str:
        """Version, kernels and threads as the library itself reports them."""
        threads = self.library.scipy_openblas_get_num_threads()
        plural = "" if threads == 1 else "s"
        version = _config(self.library.scipy_openblas_get_config)
        kernels = f"{self.kernel_type()} kernels"
        return f"{version} (scipy-openblas32, {kernels}, {threads} thread{plural})"

    def kernel_type(self) -> str:
        """The processor whose kernels answer, as OPENBLAS_CORETYPE spells it."""
        return _text(self.library.scipy_openblas_get_corename)

    def answers_mlx(self) -> bool:
        """Whether a product of MLX's CPU backend arrives here; multiplies two 2x2 matrices."""
        import mlx.core as mx

        count = self.shim.dsv4_blas_products
        count.restype = ctypes.c_ulong
        before = count()
        mx.eval(mx.matmul(mx.ones((2, 2)), mx.ones((2, 2)), stream=mx.cpu))
        return bool(count() > before)


@cache
def load() -> OpenBlas | str:
    """Make OpenBLAS global for the coming import of mlx.core, once per process.

    Where it is not loaded, the name of the BLAS that answers instead, with the reason.
    """
    if sys.platform != "linux":
        return "Accelerate" if sys.platform == "darwin" else "the BLAS that MLX was built with"
    if (already := _global_blas()) is not None:
        return already
    if "mlx.core" in sys.modules:
        return f"{_BUNDLED} (mlx.core was imported before dsv4_mlx)"
    library = _library_file()
    if library is None:
        return f"{_BUNDLED} (scipy-openblas32 is not installed)"
    # First the library: the shim is linked against its names when it is loaded.
    openblas = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    if not any(name in os.environ for name in _THREAD_VARIABLES):
        openblas.scipy_openblas_set_num_threads(_threads())
    try:
        return OpenBlas(openblas, build.load(build.SHIM))
    except NotBuilt as error:
        return f"{_BUNDLED} ({error})"


def answering_blas() -> str:
    """One phrase for `--version`: the BLAS behind an actual product of MLX."""
    blas = load()
    if isinstance(blas, str):
        return blas
    if not blas.answers_mlx():
        return f"{_BUNDLED} (mlx.core did not bind to OpenBLAS)"
    return blas.describe()


def _threads() -> int:
    # MLX runs independent products on two streams. OpenBLAS's idle threads spin for a while: with
    # one on every core they take the time of the other stream (docs/LOG.md has the numbers).
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _library_file() -> Path | None:
    # The package is found, not imported: importing it loads the library and reads its metadata.
    spec = find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so"), None)


def _global_blas() -> str | None:
    """The CBLAS that is global already, as LD_PRELOAD makes it; None when there is none."""
    process = ctypes.CDLL(None)
    if not hasattr(process, "cblas_sgemm"):
        return None
    if not hasattr(process, "openblas_get_config"):
        return "a BLAS that was loaded before this program"
    return f"{_config(process.openblas_get_config)} (loaded before this program)"


def _config(query: "ctypes._NamedFuncPointer") -> str:
    """'OpenBLAS 0.3.34' and the rest of the version, from OpenBLAS's own configuration text."""
    return " ".join(_text(query).split()[:2])


def _text(query: "ctypes._NamedFuncPointer") -> str:
    query.restype = ctypes.c_char_p
    return str(query().decode())
