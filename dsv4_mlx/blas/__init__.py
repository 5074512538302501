"""A fast BLAS for MLX's CPU matrix products on Linux.

The Linux wheels of MLX bring the netlib reference BLAS, whose float32 products are tens of times
slower than OpenBLAS (docs/LOG.md has the measurements). libmlx.so looks `cblas_sgemm`,
`cblas_dgemm` and `cblas_cgemm` up when it is loaded, first in the libraries that are global
at that moment. So OpenBLAS has to be there, under those names, before `import mlx.core`: that
takes no root and no LD_PRELOAD, but the order matters.

OpenBLAS comes from the scipy-openblas32 wheel: OpenBLAS and its LAPACK are BSD-3-Clause, the parts
of the GCC runtime inside GPL-3.0 with the GCC Runtime Library Exception, the packaging
BSD-2-Clause. It has a thread pool of its own, so calls from several MLX streams are safe and share
that pool. The pool takes half the cores, and what OPENBLAS_NUM_THREADS or OMP_NUM_THREADS say
where they are set.

macOS needs none of this: MLX uses Accelerate there. This package can go on the day on which MLX's
Linux wheel brings a fast BLAS of its own.
"""

__all__ = ["ensure_fast_blas", "name"]


def ensure_fast_blas() -> None:
    """Let the coming import of mlx.core bind to OpenBLAS.

    Where that is too late, impossible or needless, nothing happens, and `name` says why.
    """
    from dsv4_mlx.blas import openblas

    openblas.load()


def name() -> str:
    """The BLAS that answers MLX's CPU products, found by multiplying; imports mlx.core."""
    from dsv4_mlx.blas import openblas

    return openblas.answering_blas()
