"""Searches a folder in a process of its own, so that an expression that never ends can be stopped.

    python search_worker.py DESCRIPTOR < JOB

DESCRIPTOR is the open folder; JOB is a JSON object with pattern, ignore_case, glob, file (one name
to search instead of the whole folder, or null) and most. Each match is one JSON line with file,
line and text; the last line counts what was left out. Only the standard library is imported.
"""

import fnmatch
import json
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

LARGEST_FILE = 8 << 20
LONGEST_TEXT = 300
_SKIPPED_FOLDERS = {".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv"}


def main() -> None:
    """Search as the job on stdin says."""
    job = json.load(sys.stdin)
    pattern = re.compile(job["pattern"], re.IGNORECASE if job["ignore_case"] else 0)
    left_out: Counter[str] = Counter()
    for count, match in enumerate(_matches(int(sys.argv[1]), job, pattern, left_out)):
        if count == job["most"]:
            left_out["match or more"] = 1
            break
        print(json.dumps(match), flush=True)
    print(json.dumps({"left_out": left_out}), flush=True)


def _matches(
    root: int, job: dict[str, Any], pattern: "re.Pattern[str]", left_out: "Counter[str]"
) -> Iterator[dict[str, Any]]:
    for name, folder, path in _files(root, job, left_out):
        text = _text(name, folder, left_out)
        for number, line in enumerate(text.split("\n") if text else [], 1):
            if pattern.search(line):
                yield {"file": path, "line": number, "text": line[:LONGEST_TEXT]}


def _files(
    root: int, job: dict[str, Any], left_out: "Counter[str]"
) -> Iterator[tuple[str, int, str]]:
    """Name, descriptor of its folder, and path of each file, in the order of their names."""
    if job["file"] is not None:
        yield job["file"], root, job["file"]
        return
    for place, folders, names, descriptor in os.fwalk(".", dir_fd=root):
        left_out["folders of tools such as .git"] += len(_SKIPPED_FOLDERS.intersection(folders))
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(names):
            path = os.path.normpath(os.path.join(place, name))
            if fnmatch.fnmatch(name, job["glob"]) or fnmatch.fnmatch(path, job["glob"]):
                yield name, descriptor, path


def _text(name: str, folder: int, left_out: "Counter[str]") -> str:
    """The text of an ordinary file; "" for anything else, which is counted."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        left_out["links and unreadable files"] += 1
        return ""
    with_size = os.fstat(file)
    if not stat.S_ISREG(with_size.st_mode) or with_size.st_size > LARGEST_FILE:
        os.close(file)
        left_out["files that are too large or no files"] += 1
        return ""
    with open(file, "rb") as opened:
        content = opened.read(LARGEST_FILE)
    if b"\0" in content:
        left_out["files that are no text"] += 1
        return ""
    return content.decode("utf-8", "replace")


if __name__ == "__main__":
    main()
