"""Float32 sums in another order than any installed BLAS runs them: DSV4_SUMS=NUMBER.

Every number is another order, the same in each run. It is what another processor's BLAS does to
the last bits, worse: the order changes with the shape of a product. Linux with scipy-openblas32.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def load(number: int) -> None:
    """Answer MLX's float32 products with shuffled sums; before the first import of mlx.core."""
    assert sys.platform == "linux" and "mlx.core" not in sys.modules
    spec = find_spec("scipy_openblas32")
    assert spec is not None and spec.origin is not None, "DSV4_SUMS needs scipy-openblas32"
    [library] = (Path(spec.origin).parent / "lib").glob("libscipy_openblas*.so")
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "other_sums.so"
        command = [os.environ.get("CC", "cc"), "-std=c11", "-O2", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(built), str(SOURCE)], check=True)
        shuffled = ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
    shuffled.dsv4_other_sums(ctypes.c_uint64(number))
