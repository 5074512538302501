"""What this installation is made of, as facts for `--version` and bug reports."""

from dataclasses import dataclass

from dsv4_mlx import __version__


@dataclass(frozen=True)
class About:
    """One installation, with the backend and the kernels that a model would get now."""

    version: str
    mlx: str
    backend: str
    kernels: dict[str, str]
    """Implementations by kernel; `mlx` for products that are its own until drafts are loaded."""
    blas: str
    left_out: tuple[str, ...] = ()
    """Kernels that run by their slower references, as somebody asked."""
    compiled: bool = False
    """Whether the tokens of a reply replay one graph, which is on a GPU."""


def about(backend: str = "auto", *, compile: bool = True) -> About:
    """The facts; loads no model. `compile` is false where somebody wants no token compiled.

    Raises BackendError for a backend this machine lacks.
    """
    from dsv4_mlx import blas  # before mlx, which binds its matrix products when it is imported

    blas_name = blas.name()

    import mlx.core as mx

    from dsv4_mlx.engine.running import steps_are_compiled
    from dsv4_mlx.model.backends import kernel_plan

    plan = kernel_plan(backend)
    return About(
        __version__,
        vars(mx)["__version__"],
        plan.backend,
        plan.used,
        blas_name,
        plan.left_out,
        compile and steps_are_compiled(plan.backend),
    )


def device_memory(backend: str) -> int | None:
    """Bytes of memory that the device of a resolved `backend` has for itself; None if it has none.

    A Mac's GPU shares the machine's, so only an NVIDIA one has.
    """
    return _device_number("total_memory") if backend == "cuda" else None


def wirable_memory(backend: str) -> int | None:
    """Bytes that a Mac's GPU may keep resident, as it says; None for another backend."""
    return _device_number("max_recommended_working_set_size") if backend == "metal" else None


def _device_number(name: str) -> int | None:
    import mlx.core as mx

    number = mx.device_info().get(name)
    return number if isinstance(number, int) else None
