"""Which machine the kernels run on: decided once, when a model is built."""

import os
from typing import Literal, get_args

import mlx.core as mx

Backend = Literal["metal", "cuda", "cpu"]
BACKENDS: tuple[str, ...] = get_args(Backend)
ENVIRONMENT_VARIABLE = "DSV4_BACKEND"


class MissingBackend(RuntimeError):
    """The backend asked for does not exist on this machine."""


def available() -> tuple[Backend, ...]:
    """The backends of this machine, the preferred one first."""
    found: list[Backend] = []
    if mx.metal.is_available():
        found.append("metal")
    if mx.cuda.is_available():
        found.append("cuda")
    return (*found, "cpu")


def resolve(name: str = "auto") -> Backend:
    """`auto` is `DSV4_BACKEND` where set, else the best here; an absent backend is an error."""
    if name == "auto":
        name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if name == "auto":
        return available()[0]
    if name not in BACKENDS:
        raise MissingBackend(
            f"expected a backend out of auto, {', '.join(BACKENDS)} but found {name!r}; "
            f"set --backend, --kernels, {ENVIRONMENT_VARIABLE} or DSV4_KERNELS to one of these."
        )
    for backend in available():
        if backend == name:
            return backend
    raise MissingBackend(
        f"expected the {name} backend but this machine has only {', '.join(available())}; "
        "install the MLX build for it or choose --backend auto."
    )
