"""metal_kernels/ops.py: the ops of a plan as a type, from the references' signatures."""

import ast
import inspect

from metal_kernels import sources
from metal_kernels.contract import Kernel
from metal_kernels.registry import kernels

MODULE = sources.ROOT / "ops.py"
HEAD = '''\
"""The ops of a plan: every kernel by name, with its reference's signature.

Written by `make pages`.
"""

from typing import Protocol

import mlx.core as mx

from metal_kernels.backend import Backend
from metal_kernels.shared.rows import RowStorage


class Ops(Protocol):
    """What a model calls; a plan binds each op to its implementation."""

    @property
    def backend(self) -> Backend: ...

    @property
    def exact_rows(self) -> int:
        """Rows of a call up to which each has the bits that it has alone.

        Above 1 products of so many rows are this project's own; at 1 packed ones are MLX's.
        """
'''


def module() -> str:
    """The whole module."""
    return "\n".join([HEAD, *map(_method, kernels().values())])


def _method(kernel: Kernel) -> str:
    (function,) = ast.parse(inspect.getsource(kernel.reference)).body
    assert isinstance(function, ast.FunctionDef) and function.returns
    return "\n".join(
        [
            f"    def {kernel.name}(",
            *(f"        {parameter}," for parameter in ("self", *_parameters(function.args))),
            f"    ) -> {ast.unparse(function.returns)}:",
            f'        """{kernel.summary[0].upper()}{kernel.summary[1:]}."""\n',
        ]
    )


def _parameters(given: ast.arguments) -> list[str]:
    """Parameters with their types and defaults, as they stand in a signature."""
    required = [None] * (len(given.args) - len(given.defaults))
    return [
        *map(_parameter, given.args, [*required, *given.defaults]),
        *(["*"] if given.kwonlyargs else []),
        *map(_parameter, given.kwonlyargs, given.kw_defaults),
    ]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")
