"""The checkpoints that both checkouts read, written once by the one before."""

import shutil
from pathlib import Path

from .addresses import first, nano

WRITE = ("dsv4_mlx.testing.checkpoints:write_tiny_checkpoint",)
TINY512 = ("dsv4_mlx.testing.checkpoints:TINY512",)


def checkpoints(folder: str) -> dict[str, str]:
    """Write `tiny`, `tiny512`, `nano` and other spellings of tiny into `folder`; path by name."""
    write, into = first(*WRITE), Path(folder)
    write(into / "tiny", shards=3)
    write(into / "tiny512", first(*TINY512))
    write(into / "tiny-base", base=True)
    write(into / "tiny-dspark", dspark=True)
    write(into / "tiny-transformers", transformers_names=True)
    shutil.copytree(nano(), into / "nano")
    return {path.name: str(path) for path in sorted(into.iterdir())}
