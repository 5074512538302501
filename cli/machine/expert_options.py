"""The options of models whose experts may stay on the disk."""

from collections.abc import Callable
from typing import Any

from cli.option_values import size_or
from dsv4_mlx.files.paths import user_path


def add_the_experts(add: Callable[..., Any]) -> None:
    """How much of them memory holds, and a file for what is chosen."""
    add(
        "--expert-memory",
        type=size_or("auto"),
        metavar="SIZE",
        help="memory for experts, as 20GB; the others are read from the disk. auto, the default, "
        "does that for models that do not fit",
    )
    add(
        "--expert-trace",
        type=user_path,
        metavar="FILE",
        help="write which experts of files were chosen",
    )
