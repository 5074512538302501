"""Timelines of token ids: `Engine` is a loaded model, `Session` one timeline; see `engine.engine`.

Names are imported when they are first used, for settings of sampling need no mlx.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> object:
    """Import `Engine` on first use (PEP 562)."""
    if name != "Engine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dsv4_mlx.engine.engine import Engine

    return Engine
