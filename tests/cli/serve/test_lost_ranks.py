"""A server whose model lies on two machines: a rank is lost, and both are started again."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from cli.ranks.far_service import FarService
from cli.ranks.messages import FarEnd
from cli.ranks.prompts_away import PromptsAway
from cli.serve import chores
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.ranks.far_program import FarProgram
from tests.cli.serve.served_app import PATIENCE_S, Client, Served, script

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
LONG = ScriptedReply("One word after the other. ", repeat=2000, delay_ms=1)
GONE = "rank 1 (mini) is gone: its program ended; look what became of it there, then start again."
TOLD = (
    "rank 1 (mini) is gone: its program ended; look what became of it there; both ranks are "
    "started again"
)


class Pair(Served):
    """A server with a program of rank 0, which may start again once `may_start` is set."""

    def __post_init__(self) -> None:
        self.programs: list[FarProgram] = []
        self.refusals: list[str] = []
        self.notes: list[str] = []
        self.ended = 0
        self.may_start = Flag()
        self.may_start.set()
        self.end_ranks = self._end
        super().__post_init__()
        self.app.chores = [partial(chores.keep_ranks, self.model, self.notes.append)]

    def engine(self) -> Any:
        assert self.may_start.wait(PATIENCE_S)
        if self.refusals:
            raise PipelineError(self.refusals.pop(0))
        self.programs.append(FarProgram(self.script, self.folder))
        return self.programs[-1].engine

    def _service(self, engine: Any, tokenizer: Any) -> Any:
        away = PromptsAway(tokenizer, self.script.effort_table, self.folder)
        return FarService(engine, tokenizer, away)

    def _end(self) -> None:
        self.ended += 1
        self.programs[-1].end()

    def lose_a_rank(self) -> None:
        self.may_start.clear()
        self.programs[-1].there.send(FarEnd(GONE))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    for name in ("LOOK_S", "AGAIN_S"):
        monkeypatch.setattr(chores, name, 0.0)
    return Pair(script(LONG))


async def until(served: Served, states: Sequence[str]) -> None:
    while served.model.state not in states:
        await asyncio.sleep(0)


def test_a_lost_rank_is_told_in_each_dialect_and_the_next_request_is_served(pair: Pair) -> None:
    asked = {**BODY, "max_tokens": 8}

    async def work(client: Client) -> Any:
        first = await client.post(CHAT, asked)
        lost: list[None] = []

        def loses(answer: Any) -> bool:
            if b"content" in answer.body and not lost:
                lost.append(pair.lose_a_rank())
            return False

        cut = await client.post(CHAT, {**BODY, "stream": True}, leaves_at=loses)
        await until(pair, ["lost"])
        refused = [await client.post(path, asked) for path in (CHAT, MESSAGES)]
        health = await client.get("/health")
        metrics = await client.get("/metrics")
        pair.may_start.set()
        await until(pair, ["ready"])
        return first, cut, refused, health, metrics, await client.post(CHAT, asked)

    first, cut, refused, health, metrics, last = pair.run(work)
    assert cut.chunks[-1]["error"]["message"] == GONE
    assert [answer.status for answer in refused] == [503, 529]
    for answer in refused:
        assert answer.json["error"]["message"] == f"{TOLD}, ask again soon."
    assert refused[0].json["error"]["type"] != refused[1].json["error"]["type"]
    assert (health.status, health.json) == (503, {"status": "lost", "error": GONE})
    assert b'dsv4_model_state{state="lost"} 1' in metrics.body
    assert last.status == 200 and last.json["choices"] == first.json["choices"]
    assert pair.notes == [TOLD, "both ranks run"] and len(pair.programs) == 2


def test_ranks_that_do_not_come_are_tried_again(pair: Pair) -> None:
    why = "rank 1 (mini) cannot be started: No route to host."

    async def work(client: Client) -> Any:
        assert (await client.post(CHAT, {**BODY, "max_tokens": 2})).status == 200
        pair.refusals += [why] * 3
        pair.programs[-1].there.send(FarEnd(GONE))
        await until(pair, ["lost"])
        while pair.refusals:
            await asyncio.sleep(0)
        await until(pair, ["ready"])
        return await client.post(CHAT, {**BODY, "max_tokens": 2})

    assert pair.run(work).status == 200
    tried = f"{why[:-1]}; both ranks are started again"
    assert pair.notes == [TOLD, tried, tried, tried, "both ranks run"]


class Refused(Pair):
    """One whose ranks do not come the first time."""

    def engine(self) -> Any:
        raise PipelineError("rank 1 (mini) cannot be started.")


def test_ranks_that_do_not_come_the_first_time_end_the_server() -> None:
    never = Refused(script(LONG))
    while never.model.state == "loading":
        time.sleep(0)
    assert never.model.state == "failed"
    assert never.model.why_failed == "rank 1 (mini) cannot be started."
    never.stop()


def test_a_pair_that_nobody_asks_is_let_go_of_and_comes_again(pair: Pair) -> None:
    async def work(client: Client) -> Any:
        asked = {**BODY, "max_tokens": 8}
        first = await client.post(CHAT, asked)
        await asyncio.to_thread(pair.model.let_go())
        health = (await client.get("/health")).json
        ended = pair.ended
        pair.refusals.append("rank 1 (mini) cannot be started.")
        refused = await client.post(CHAT, asked)
        await until(pair, ["ready"])
        return first, health, ended, refused, await client.post(CHAT, asked)

    first, health, ended, refused, last = pair.run(work)
    assert health == {"status": "idle"} and ended == 1
    assert refused.status == 503 and "rank 1 (mini) cannot be started" in str(refused.json)
    assert last.json["choices"] == first.json["choices"] and len(pair.programs) == 2


@pytest.mark.parametrize("is_kept", [True, False])
def test_tokens_are_counted_while_a_pair_is_let_go_of(tmp_path: Path, is_kept: bool) -> None:
    """What a client leaves out of an answer counts as long as it is known here."""
    replies = [ScriptedReply("<think>Two times three.</think>Six.")] * 2
    pair = Pair(script(*replies), folder=tmp_path if is_kept else None)

    async def work(client: Client) -> Any:
        first = await client.post(CHAT, {**BODY, "reasoning_effort": "high"})
        said = {"role": "assistant", "content": first.json["choices"][0]["message"]["content"]}
        body = {"messages": [*BODY["messages"], said, *BODY["messages"]]}
        body |= {"thinking": {"type": "adaptive"}, "tools": [{"name": "look"}]}

        async def counted() -> int:
            answer = await client.post("/v1/messages/count_tokens", body)
            return int(answer.json["input_tokens"])

        found = [await counted()]
        await asyncio.to_thread(pair.model.let_go())
        found += [await counted(), await counted()]
        programs = len(pair.programs)
        await client.post(CHAT, {**BODY, "max_tokens": 1})
        return [*found, await counted()], programs

    (known, *away, again), programs = pair.run(work)
    assert away == [again, again] and programs == 1
    assert (known == again) is is_kept


def test_what_a_pair_holds_is_counted_in_its_own_program(pair: Pair) -> None:
    async def work(client: Client) -> Any:
        await client.post(CHAT, {**BODY, "max_tokens": 8})
        body = {"path": CHAT, "body": BODY}
        found = await client.post("/v1/debug/prompt", body)
        counted = await client.post("/v1/messages/count_tokens", BODY)
        return found, counted, await pair.app.cache_figures()

    found, counted, figures = pair.run(work)
    assert found.status == 200 and found.json["kept"] > 0 and found.json["partings"]
    assert counted.json["input_tokens"] == found.json["tokens"]
    assert figures.places > 0


def test_a_server_that_ends_cancels_what_a_pair_does(pair: Pair) -> None:
    async def work(client: Client) -> Any:
        stopped: list[Any] = []

        def ends(answer: Any) -> bool:
            if b"content" in answer.body and not stopped:
                stopped.append(asyncio.ensure_future(asyncio.to_thread(pair.model.stop, "Over.")))
            return False

        answer = await client.post(CHAT, {**BODY, "stream": True}, leaves_at=ends)
        await asyncio.gather(*stopped)
        return answer

    assert "error" in pair.run(work).chunks[-1]
    assert pair.ended == 1 and pair.programs[-1].failed == []
