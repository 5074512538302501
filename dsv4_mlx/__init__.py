"""DeepSeek-V4 on MLX.

>>> model, tokenizer = dsv4_mlx.load("path/to/DeepSeek-V4-Flash")

Importing this package does no work: each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dsv4_mlx import before_mlx

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.loading import load
    from dsv4_mlx.model.numerics import Numerics
    from dsv4_mlx.release.config import DeepseekV4Config

__version__ = "0.1.0"
__all__ = ["DeepseekV4Config", "Engine", "Numerics", "__version__", "load"]

_HOME = {
    "DeepseekV4Config": "dsv4_mlx.release.config",
    "Engine": "dsv4_mlx.engine.engine",
    "Numerics": "dsv4_mlx.model.numerics",
    "load": "dsv4_mlx.loading",
}


# Before anything imports mlx.core: it binds to a BLAS when it is loaded.
before_mlx.precede_mlx()


def __getattr__(name: str) -> object:
    """Import `name` from the module that defines it, on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
