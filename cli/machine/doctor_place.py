"""What surrounds the program, as `dsv4-chat doctor` tells it: the disk and the terminal."""

import os
import shutil
from pathlib import Path
from typing import cast

from cli.environment import Environment
from cli.kept.private_files import NoHome, state_home
from cli.machine.doctor_report import Page
from cli.machine.memory import size


def disk(page: Page, environment: Environment) -> None:
    """What is free where conversations are kept."""
    try:
        folder = state_home(environment.variables)
    except NoHome as error:
        page.add("disk", {"folder": None, "free_bytes": None}, "conversations are not kept")
        page.problems.append(str(error))
        return
    free = _free_bytes(folder)
    page.add("disk", {"folder": str(folder), "free_bytes": free},
             f"{'unknown' if free is None else size(free)} free for conversations in {folder}"
    )  # fmt: skip


def _free_bytes(folder: Path) -> int | None:
    """What the disk of `folder`, or of the nearest folder above it, has left."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def terminal(page: Page, environment: Environment) -> None:
    """What decides how the program draws."""
    variables = environment.variables
    columns, rows = _dimensions(environment)
    facts = {
        "term": variables.get("TERM", ""),
        "colorterm": variables.get("COLORTERM", ""),
        "no_color": bool(variables.get("NO_COLOR")),
        "columns": columns,
        "rows": rows,
        "encoding": getattr(environment.stdout, "encoding", None) or "utf-8",
        "is_terminal": environment.reads_terminal,
        "redraws": environment.edits_lines,
        "inside": [name for name, variable in (("tmux", "TMUX"), ("screen", "STY"),
                                               ("ssh", "SSH_CONNECTION"))
                   if variables.get(variable)],
    }  # fmt: skip
    words = [
        str(facts["term"]) or "TERM is not set",
        f"{columns}×{rows}" if columns else "no size",
        str(facts["encoding"]),
        "redraws" if facts["redraws"] else "plain lines",
        *(["NO_COLOR"] if facts["no_color"] else []),
        *cast(list[str], facts["inside"]),
    ]
    page.add("terminal", facts, ", ".join(words))


def _dimensions(environment: Environment) -> tuple[int | None, int | None]:
    try:
        return tuple(os.get_terminal_size(environment.stdout.fileno()))  # type: ignore[return-value]
    except (OSError, ValueError):
        return None, None
