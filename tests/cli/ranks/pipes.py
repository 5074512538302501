"""The pipes between a terminal, or a server, and rank 0's program."""

import os

from cli.ranks.messages import Pipes


def two_pipes() -> tuple[Pipes, Pipes]:
    """The terminal's and rank 0's."""
    down, up = os.pipe(), os.pipe()
    here = Pipes(os.fdopen(up[0], "rb"), os.fdopen(down[1], "wb"))
    return here, Pipes(os.fdopen(down[0], "rb"), os.fdopen(up[1], "wb"))
