"""Searching the text of files; the work is done by `search_worker.py`."""

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cli.tools.approval import Approvals
from cli.tools.files import allow_outside
from cli.tools.tool import Tool, ToolError, bounded, characters, parameters
from cli.tools.workspace import ResolvedPath, Workspace

TIMEOUT_S = 20.0
MOST_MATCHES = 200
_SLICE_S = 0.1  # between looks at `stopped`
_WORKER = Path(__file__).with_name("search_worker.py")


def searching_tool(workspace: Workspace, approvals: Approvals, stopped: Callable[[], bool]) -> Tool:
    """`search_in_files`."""
    return Tool(
        "search_in_files",
        "Find the lines of text files, in all folders below one, that match a regular expression.",
        parameters(
            ("pattern",),
            pattern={
                "type": "string",
                "minLength": 1,
                "maxLength": 1_000,
                "description": "Regular expression as in Python.",
            },
            path={"type": "string", "description": "Folder or file; default: working folder."},
            glob={"type": "string", "description": "Only files like this, such as *.py."},
            ignore_case={"type": "boolean", "description": "Default false."},
        ),
        _Searcher(workspace, approvals, stopped).search,
    )


class _Searcher:
    """The tool on one working folder."""

    def __init__(
        self, workspace: Workspace, approvals: Approvals, stopped: Callable[[], bool]
    ) -> None:
        self._workspace = workspace
        self._approvals = approvals
        self._stopped = stopped

    def search(self, arguments: Mapping[str, Any]) -> str:
        try:
            re.compile(arguments["pattern"])
        except (re.error, RecursionError, OverflowError) as error:
            raise ToolError(f"The pattern is no regular expression: {error}.") from error
        place = self._workspace.place(arguments.get("path", "."))
        allow_outside(place, "search_in_files", "search files", self._approvals)
        folder, file = self._opened(place)
        job = {
            "pattern": arguments["pattern"],
            "ignore_case": arguments.get("ignore_case", False),
            "glob": arguments.get("glob", "*"),
            "file": file,
            "most": MOST_MATCHES,
        }
        try:
            output, ended = self._run(folder, json.dumps(job).encode())
        finally:
            os.close(folder)
        return bounded(_shown(output, ended, arguments["pattern"]), "search for less")

    def _opened(self, place: ResolvedPath) -> tuple[int, str | None]:
        """The folder to search, and the one file in it if `place` is no folder."""
        descriptor = self._workspace.open(place)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return descriptor, None
        os.close(descriptor)
        return self._workspace.open_folder(place), place.path.name

    def _run(self, folder: int, job: bytes) -> tuple[bytes, str]:
        """What the worker printed, and why it was ended ("" when it was not)."""
        program = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[folder],
            start_new_session=True,  # Ctrl-C is for us, and `stopped` tells
        )
        with program:
            try:
                return self._finished(program, job)
            finally:
                program.kill()  # whatever ends the waiting, the search ends with it

    def _finished(self, program: "subprocess.Popen[bytes]", job: bytes) -> tuple[bytes, str]:
        deadline = time.monotonic() + TIMEOUT_S
        ended, given = "", job
        while True:
            try:
                return program.communicate(given, timeout=_SLICE_S)[0], ended
            except subprocess.TimeoutExpired:
                given = b""
            if self._stopped() or time.monotonic() > deadline:
                ended = "stopped" if self._stopped() else f"stopped after {TIMEOUT_S:g} s"
                program.kill()


def _shown(output: bytes, ended: str, pattern: str) -> str:
    *records, last = [json.loads(line) for line in output.splitlines()] or [{}]
    if ended or "left_out" not in last:
        records += [last] if "file" in last else []
        last = {}
    lines = [f"{characters(r['file'])}:{r['line']}: {r['text']}" for r in records]
    lines = lines or [f"Nothing matches {pattern!r}."]
    left_out = [f"{count:,} {what}" for what, count in last.get("left_out", {}).items() if count]
    if left_out:
        lines.append(f"[left out: {', '.join(left_out)}]")
    if ended or not last:
        lines.append(f"[{ended or 'the search failed'}]")
    return "\n".join(lines)
