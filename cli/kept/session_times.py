"""When a session last changed, by its own records.

What a file system tells of its files follows copies, backups and clouds, not conversations.
"""

import os
import re
from datetime import UTC, datetime
from pathlib import Path

from cli.kept.session_lines import MOST_BYTES, last_time

_TAIL_BYTES = 64 << 10
_ID = re.compile(r"([0-9]{8}-[0-9]{6}-[0-9]{3})-")
NEVER = datetime(1, 1, 1, tzinfo=UTC)


def last_record(path: Path) -> datetime:
    """The time of the last finished line of the session file `path`, else the one in its name;
    NEVER for a file that tells nothing.

    Only the end of the file is read where that is enough.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for nbytes in (_TAIL_BYTES, MOST_BYTES):
                file.seek(max(0, size - nbytes))
                if (time := last_time(file.read(nbytes))) is not None:
                    return time
                if nbytes >= size:
                    break
    except OSError:
        pass
    return began(path.stem) or NEVER


def began(id: str) -> datetime | None:
    """The time in a session's id."""
    found = _ID.match(id)
    try:
        return datetime.strptime(f"{found[1]}000 +0000", "%Y%m%d-%H%M%S-%f %z") if found else None
    except ValueError:
        return None
