"""Passes on what an MCP server writes, and ends a server that floods.

    python mcp_relay.py COMMAND [ARGUMENTS]

A server shares our input; its output comes through here. A line may have BURST bytes, which would
otherwise fill our memory, and so may what comes at once; PER_SECOND bytes may come on average. Only
the standard library is imported.
"""

import os
import subprocess
import sys
import time

BURST = 4 << 20
PER_SECOND = 1 << 20
_PIECE = 1 << 16


def main(command: list[str]) -> int:
    """Run `command` until its output ends; its exit status, or 1 when it flooded."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        left, before, line = float(BURST), time.monotonic(), 0
        while piece := os.read(server.stdout.fileno(), _PIECE):
            now = time.monotonic()
            left = min(BURST, left + PER_SECOND * (now - before)) - len(piece)
            before = now
            line = len(piece) - 1 - piece.rfind(b"\n") + (0 if b"\n" in piece else line)
            if left < 0 or line > BURST or not _passed_on(piece):
                server.kill()
                return 1
    return server.returncode


def _passed_on(piece: bytes) -> bool:
    """Write all of `piece`; False when nobody reads any more."""
    try:
        while piece:
            piece = piece[os.write(1, piece) :]
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
