"""What the server does beside requests, as tasks of its event loop: warming up, and letting go."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cli.serve.bridge import EventBridge
from cli.serve.dialect import Asked
from cli.serve.records import Records
from cli.serve.served_model import ServedModel
from cli.serve.trace import traced_requests
from dsv4_mlx.chat.events import Done
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.serving.events import Refused
from dsv4_mlx.serving.request import GenerationRequest

LOOK_S: Final = 1.0
"""How often is looked whether there is something to do."""
AGAIN_S: Final = 30.0
"""How long after ranks could not be started it is tried again."""


async def let_go_when_idle(model: ServedModel, records: Records, idle_s: float) -> None:
    """Let go of the model whenever nobody asked for so long."""
    while True:
        await asyncio.sleep(LOOK_S)
        since = records.clock() - max(records.last_ended, model.last_event)
        if model.is_ready and not records.open and since >= idle_s:
            await asyncio.to_thread(model.let_go())


async def keep_ranks(model: ServedModel, note: Callable[[str], None]) -> None:
    """Start both ranks of a model on two machines again whenever one is lost, and tell of it."""
    while True:
        for sentence in model.notes:
            note(sentence)
        await asyncio.sleep(LOOK_S)
        if model.state == "lost":
            note(model.why_lost)
            if await model.start_again():
                note("both ranks run")
            else:
                await asyncio.sleep(AGAIN_S)


async def warm_up(
    model: ServedModel,
    files: Sequence[Path],
    read: Callable[[str, dict[str, Any]], Asked | None],
    owners: Sequence[str],
    records: Records,
    note: Callable[[str], None],
) -> None:
    """Read what the requests in `files` begin with, while nobody asks anything.

    `read` gives what a body asks for, None for one that asks for nothing any longer.
    """
    count = 0
    for file in files:
        try:
            for path, body in traced_requests(file):
                asked = read(path, body)
                if asked is None:
                    continue
                for owner in owners:
                    while records.open:
                        await asyncio.sleep(LOOK_S)
                    count += await _read_beginning(model, asked.request, owner)
        except Dsv4Error as error:
            note(str(error))
    note(f"warm: read what {count} requests begin with")


async def _read_beginning(model: ServedModel, request: GenerationRequest, owner: str) -> bool:
    """Read what one request begins with; whether that went well, which it does not where the model
    is let go of before."""
    service = await model.service()
    model.hear()  # so that it is not let go of as one that nobody asks
    bridge = EventBridge(asyncio.get_running_loop(), model.wake)
    with suppress(Dsv4Error):
        await asyncio.to_thread(service.warm, replace(request, owner=owner), bridge)
        while True:
            for _, event in await bridge.take(LOOK_S):
                model.hear()
                if isinstance(event, Done | Refused):
                    return isinstance(event, Done) and event.finish_reason != "cancelled"
    return False
