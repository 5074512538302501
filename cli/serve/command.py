"""`dsv4-chat serve`: its command line, and what it needs to be installed."""

import importlib.util
from typing import TYPE_CHECKING

from cli.environment import Environment, ExitStatus
from cli.serve.options import parse_serve
from cli.serve.printing import to_paste
from cli.worker import Worker
from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from cli.models import Load


def serve(
    arguments: list[str],
    environment: Environment,
    worker: Worker,
    open_model: "Load | None" = None,
) -> ExitStatus:
    """Serve until a signal ends it. Raises UsageError for options that contradict each other, and
    what opening the model raises."""
    given = parse_serve(arguments, environment)
    if (asked := to_paste(given, arguments, environment)) is not None:
        return asked.print_to(environment)
    found = {
        "starlette": importlib.util.find_spec("starlette"),
        "uvicorn": importlib.util.find_spec("uvicorn"),
        "httptools": importlib.util.find_spec("httptools"),  # which uvicorn imports by its name
    }
    missing = [name for name, spec in found.items() if spec is None]
    if missing:
        raise UsageError(
            f"dsv4-chat serve needs {', '.join(missing)}, which the extra `serve` brings: "
            "pip install 'dsv4-mlx[serve]'."
        )
    from cli.serve.starting import start

    return start(given, environment, worker, open_model)
