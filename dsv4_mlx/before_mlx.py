"""What has to be done before mlx.core is imported, done when something is about to import it.

When MLX is loaded it binds to a BLAS. Its variables it reads later: when it makes its Metal device,
and at the first product.
"""

import sys
from collections.abc import Sequence
from types import ModuleType


def precede_mlx() -> None:
    """Prepare for mlx.core when it is about to be imported; costs nothing until then."""
    if "mlx.core" in sys.modules:
        _set_variables()  # its device is made later than it is loaded, as a rule
    elif not any(isinstance(finder, _BeforeMlx) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeMlx())


def _set_variables() -> None:
    from dsv4_mlx.device import command_buffers, tf32

    command_buffers.set_limits()
    tf32.forbid()


class _BeforeMlx:
    """An import hook that finds nothing itself: it only learns that mlx.core is wanted."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if fullname == "mlx.core":
            from dsv4_mlx import blas

            blas.ensure_fast_blas()
            _set_variables()
