"""A checkout and what its own interpreter says when it is asked."""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect

RUN = Path(__file__).parent / "probes" / "run.py"
_LIMIT_S = 900
_PROMPT = r"(?:^|[\r\n])> $"
PAUSE_S = 0.2
"""The program takes lines that come at once for one paste."""


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str
    processor_s: float

    @property
    def text(self) -> str:
        """Both streams and the exit status, for a comparison."""
        return f"{self.stdout}--- stderr\n{self.stderr}--- status {self.status}"


@dataclass(frozen=True)
class Checkout:
    """The files of one commit, a Python that can import them, and a folder to write into."""

    folder: Path
    python: Path
    scratch: Path

    def probe(self, module: str, function: str, **arguments: Any) -> dict[str, Any]:
        """The facts of a function of `probes`; SystemExit with its traceback when it fails."""
        done = self.command(str(RUN), module, function, json.dumps(arguments))
        if done.status:
            raise SystemExit(f"{module}.{function} failed in {self.folder}:\n{done.stderr}")
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return facts

    def command(self, *words: str | Path, given: str = "", **variables: str) -> Finished:
        """Run this checkout's Python with `words`; `given` is what it reads on stdin."""
        before = os.times()
        done = subprocess.run(
            [self.python, *map(str, words)],
            cwd=self.folder,
            env=self._environment(variables),
            input=given.encode(),
            capture_output=True,
            timeout=_LIMIT_S,
        )
        after = os.times()
        spent = after.children_user + after.children_system
        spent -= before.children_user + before.children_system
        stdout, stderr = done.stdout.decode(), done.stderr.decode()
        return Finished(done.returncode, self.plain(stdout), self.plain(stderr), spent)

    def talk(self, words: Sequence[str], lines: Sequence[str], **variables: str) -> str:
        """All that a program shows on a dumb terminal while a person types `lines`."""
        child = pexpect.spawn(
            str(self.python),
            list(words),
            cwd=str(self.folder),
            env=self._environment({"TERM": "dumb", **variables}),
            echo=False,
            timeout=120,
            encoding="utf-8",
        )
        shown = []
        for line in lines:
            child.expect(_PROMPT)
            shown.append(f"{child.before}\n> {line}\n")
            time.sleep(PAUSE_S)
            child.sendline(line)
        child.expect(pexpect.EOF)
        child.close()
        return self.plain(f"{''.join(shown)}{child.before}--- status {child.exitstatus}")

    def plain(self, text: str) -> str:
        """`text` without the places that differ between checkouts."""
        named = text.replace(str(self.scratch), "SCRATCH").replace(str(self.folder), "CHECKOUT")
        return named.replace("\r\n", "\n")

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        left_out = ("PYTHONPATH", "DSV4_BACKEND", "XDG_CONFIG_HOME")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        # One thread adds up in one order; a hash seed of its own would reorder sets.
        fixed = {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "COLUMNS": "80"}
        fixed |= {"LC_ALL": "C.UTF-8", "NO_COLOR": "1", "DSV4_HOME": str(self.scratch / "home")}
        return kept | fixed | variables
