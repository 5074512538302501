"""Parts that do not end well, each after it has told something: processes of these tests."""

import os
import signal
import sys
import threading
from pathlib import Path

from benchmarks.report import teller


def main(how: str) -> None:
    """Tell one row, then end as `how` says."""
    mouth = teller.on_standard_output(Path())
    print("what a library prints")
    mouth.row("told", how=how)
    mouth.at(f"about to {how}")
    if how == "abort":
        os.abort()
    if how == "raise":
        raise MemoryError("no room")
    if how == "half a line":
        os.write(mouth._out.fileno(), b'{"row": {"ki')
        os._exit(3)
    if how == "stop the report":
        os.kill(os.getppid(), signal.SIGINT)
    if how in ("stop the report", "hang"):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
