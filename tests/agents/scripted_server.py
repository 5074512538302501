"""`dsv4-chat serve` on a model that follows a script, in a process of its own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 120


@dataclass(frozen=True)
class ScriptedServer:
    """One that runs; `options` are those that it was started with."""

    port: int
    options: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self, client: str) -> str:
        """What `--print-config` prints for `client`."""
        command = [*_command(), *self.options, "--port", str(self.port), "--print-config", client]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def serving(script: Mapping[str, object], folder: Path) -> Iterator[ScriptedServer]:
    """It keeps its cache in `folder`, and writes server.log and trace.jsonl there anew."""
    trace, log, follows = (folder / name for name in ("trace.jsonl", "server.log", "script.json"))
    trace.unlink(missing_ok=True)
    follows.write_text(json.dumps(script), encoding="utf-8")
    options = (f"--engine=fake:{follows}",)
    with open(log, "wb") as said:
        process = subprocess.Popen(
            [*_command(), *options, "--port=0", f"--trace={trace}"],
            env=os.environ | {"DSV4_HOME": str(folder / "kept")},
            stdout=said,
            stderr=said,
        )
    try:
        yield ScriptedServer(_port(process, log), options)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _command() -> list[str]:
    return [sys.executable, "-m", "cli", "serve"]


def _port(process: "subprocess.Popen[bytes]", log: Path) -> int:
    """Where it serves, once it does; RuntimeError with what it said where it does not."""
    patience = time.monotonic() + PATIENCE_S
    while time.monotonic() < patience and process.poll() is None:
        if found := re.search(r" at http://127\.0\.0\.1:(\d+)", log.read_text("utf-8")):
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text('utf-8')}")
