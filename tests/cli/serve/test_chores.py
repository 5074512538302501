"""What the server does beside requests."""

import asyncio
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cli.serve import chores
from cli.serve.dialect import Asked
from cli.serve.trace import Trace
from dsv4_mlx.errors import Dsv4Error
from tests.cli.serve.served_app import PATIENCE_S, Client, Served, script

CHAT = "/v1/chat/completions"
SYSTEM = {"role": "system", "content": "You are an agent. " * 40}


def body(text: str) -> dict[str, Any]:
    return {"messages": [SYSTEM, {"role": "user", "content": text}]}


def test_what_traced_requests_begin_with_is_read_before_anybody_asks(tmp_path: Path) -> None:
    served, notes = Served(script("Hi.", chunk=64)), []

    def read(path: str, found: dict[str, Any]) -> Asked | None:
        try:
            return served.app.dialects.answers[path].read(found, served.app.context())
        except (Dsv4Error, KeyError):
            return None

    trace = Trace(tmp_path / "trace.jsonl")
    served.app.trace = trace

    async def work(client: Client) -> Any:
        await client.post(CHAT, body("One"))
        await client.post(CHAT, {"messages": []})
        trace.request(9, "/v1/gone", {})
        served.model.running.timelines.forget("")
        files: Sequence[Path] = [tmp_path / "trace.jsonl", tmp_path / "missing"]
        records = served.app.records
        await chores.warm_up(served.model, files, read, ("",), records, notes.append)
        return (await client.post(CHAT, body("Two"))).json["usage"]

    usage = served.run(work)
    assert usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] < 16
    assert "--warm" in notes[0] and notes[1] == "warm: read what 1 requests begin with"


def test_a_model_that_is_let_go_of_before_a_warm_read_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: Any
) -> None:
    served, notes = Served(script("Hi.")), []
    served.app.trace = Trace(tmp_path / "trace.jsonl")
    found = served.model.service

    async def let_go_at_once() -> Any:
        service = await found()
        await asyncio.to_thread(served.model.let_go())
        return service

    def read(path: str, asked: dict[str, Any]) -> Asked:
        return served.app.dialects.answers[path].read(asked, served.app.context())

    async def work(client: Client) -> None:
        await client.post(CHAT, body("One"))
        monkeypatch.setattr(served.model, "service", let_go_at_once)
        files = [tmp_path / "trace.jsonl"]
        async with asyncio.timeout(PATIENCE_S):
            await chores.warm_up(served.model, files, read, ("",), served.app.records, notes.append)

    served.run(work)
    assert notes == ["warm: read what 0 requests begin with"]


def test_a_model_that_nobody_asks_is_let_go_of_and_comes_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(chores, "LOOK_S", 0.0)
    served = Served(script("Hi."))
    now = [0.0]
    records = served.app.records
    records.clock, served.model._clock = (lambda: now[0]), (lambda: now[0])
    records.last_ended = served.model.last_event = 0.0
    served.app.chores = [partial(chores.let_go_when_idle, served.model, records, 60.0)]

    loads: list[None] = []
    opened = served.model._open_model

    def load() -> Any:
        loads.append(None)
        return opened()

    served.model._open_model = load  # type: ignore[method-assign]

    async def turns() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def work(client: Client) -> list[str]:
        assert (await client.post(CHAT, body("One"))).status == 200
        now[0] = 59.0
        await turns()
        states = [served.model.state]
        engine = weakref.ref(served.model.running.scheduler._engine)
        now[0] = 61.0
        while served.model.state != "idle" or engine() is not None:
            await asyncio.sleep(0)
        states.append(served.model.state)
        count = "/v1/messages/count_tokens"
        asked = {**body("Two"), "model": served.script.name, "max_tokens": 9}
        assert (await client.post(count, asked)).json["input_tokens"] > 1
        assert loads == []
        assert (await client.post(CHAT, body("Two"))).status == 200
        return [*states, served.model.state]

    assert served.run(work) == ["ready", "idle", "ready"] and len(loads) == 1
