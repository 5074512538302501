"""Which kernel MLX refuses: every form that a computation met, compiled and run alone.

What MLX says of a text that does not build names no kernel, and what a GPU refuses is raised
wherever something is evaluated next, once.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from metal_kernels.backend import Backend
from metal_kernels.registry import bind, kernels
from metal_kernels.variants import Launched, Variant, recording


@dataclass(frozen=True)
class Broken:
    """A form of a text that does not run alone."""

    variant: Variant
    said: str
    """By MLX."""


def broken(launches: Iterable[Launched], backend: Backend) -> list[Broken]:
    """Those of `launches` that fail alone, two times in a row."""
    found = []
    for launched in launches:
        if _said(launched, backend) and (said := _said(launched, backend)):
            found.append(Broken(launched.variant, said))
    return found


@cache
def users(text: str, backend: Backend) -> tuple[str, ...]:
    """The kernels that launch a text in some of their cases: those to leave out with it."""
    ops = bind(backend).ops
    found = []
    for name, kernel in kernels().items():
        if backend not in kernel.launches:
            continue
        with recording() as seen:
            for case in kernel.cases:
                getattr(ops, name)(**case.make(0))
        if any(variant.text == text for variant in seen):
            found.append(name)
    return tuple(found)


def _said(launched: Launched, backend: Backend) -> str:
    """What MLX says against a launch, "" when it runs; what it kept of another's goes first."""
    with suppress(RuntimeError, ValueError):
        mx.synchronize()
    try:
        launched.build(backend)
    except (RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
