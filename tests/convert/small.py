"""The smallest checkpoint that still has every kind of part, for tests that convert it often."""

from pathlib import Path

from dsv4_mlx.testing.checkpoints import TINY

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(128, 0), num_hash_layers=0, n_routed_experts=2
)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder` by their names."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
