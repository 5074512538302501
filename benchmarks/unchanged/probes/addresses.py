"""Names that moved between two commits, found at the first address that has them."""

import hashlib
import importlib
from pathlib import Path
from typing import Any


def first(*addresses: str) -> Any:
    """The value at the first of `module:name` that exists in this checkout.

    SystemExit when none does: then an address is missing here, not a behaviour there.
    """
    for address in addresses:
        module, _, name = address.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
        except AttributeError:
            continue
    raise SystemExit(f"expected one of {', '.join(addresses)} but this checkout has none; add one")


def digest(content: bytes) -> str:
    """Enough of a hash to tell two values apart."""
    return hashlib.sha256(content).hexdigest()[:16]


def nano() -> Path:
    """The folder of the embedded model in this checkout."""
    import dsv4_mlx

    return Path(dsv4_mlx.__file__).parent / "nano"
