"""The person's own editor for a message."""

import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cli.texts import decoded
from dsv4_mlx.device.command_buffers import inherited
from dsv4_mlx.errors import UsageError

_DEFAULT = "vi"


def edited(text: str, variables: Mapping[str, str]) -> str | None:
    """`text` as it is when $VISUAL or $EDITOR ends; None when that reports a failure.

    Blocks, and the editor has the terminal meanwhile. Raises UsageError when it cannot be started.
    """
    command = variables.get("VISUAL") or variables.get("EDITOR") or _DEFAULT
    try:
        with tempfile.TemporaryDirectory(prefix="dsv4-chat-") as folder:  # mode 0700
            file = Path(folder, "message.md")
            file.write_bytes(f"{text}\n".encode("utf-8", "replace"))
            if subprocess.call([*shlex.split(command), str(file)], env=inherited()) != 0:
                return None
            return decoded(file.read_bytes(), "replace").removesuffix("\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"the editor {command!r} does not start: {reason}; set VISUAL or EDITOR."
        ) from error
