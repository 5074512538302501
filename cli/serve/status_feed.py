"""Keeps the status screen up to date while the server runs."""

import asyncio
from typing import TYPE_CHECKING, Final

from cli.serve.status_screen import ServerDisplay, ServerStatus

if TYPE_CHECKING:
    from cli.serve.app import ServedApp

REDRAWN_S: Final = 0.25
_COUNTED_EVERY: Final = 8
"""Of so many pictures one has what is held counted anew, which is the model's thread's work."""


async def show_status(display: ServerDisplay, app: "ServedApp", url: str) -> None:
    """Draw what the server does, again and again, until this is cancelled."""
    figures, pictures = await app.cache_figures(), 0
    while True:
        pictures += 1
        if pictures % _COUNTED_EVERY == 0:
            figures = await app.cache_figures()
        state = app.model.state
        why = app.model.why_failed if state == "lost" else ""
        status = ServerStatus(app.names[0], url, state, figures, why)
        display.show(status, tuple(app.records.open.values()), app.records.clock())
        await asyncio.sleep(REDRAWN_S)
