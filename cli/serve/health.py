"""`GET /health`: whether the model answers, by the pulse of its own thread."""

from collections.abc import Mapping
from typing import Any, Final

from cli.serve.served_model import ServedModel

SILENT_S: Final = 300.0
"""After so long without a sign of life a model that has work counts as stuck."""


def health(model: ServedModel) -> tuple[int, Mapping[str, Any]]:
    """Status and body: 200 where a request is served; an idle model loads for it."""
    state = model.state
    body: dict[str, Any] = {"status": state}
    if state == "ready":
        load, silence_s = model.running.scheduler.load, model.silence_s
        body |= {"waiting": load.requests_waiting, "running": load.requests_running}
        if silence_s > SILENT_S:
            body |= {"status": "stuck", "silent_s": round(silence_s, 1)}
    elif state in ("failed", "lost"):
        body["error"] = model.why_failed
    return (200 if body["status"] in ("ready", "idle") else 503), body
