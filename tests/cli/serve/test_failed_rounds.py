"""A device that refuses a round of answers, as each dialect tells of it."""

import asyncio
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.served_app import Answer, Client, Served, script

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HELLO = [{"role": "user", "content": "Hello"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HELLO},
    MESSAGES: {"max_tokens": 9000, "messages": HELLO},
    RESPONSES: {"input": "Hello"},
}
WHY = "The model failed: the device has no memory"


class Device:
    """Refuses the first round of all three answers, and what is asked of it next, `lasts` times."""

    def __init__(self) -> None:
        self.lasts, self._refuses, self._own = 0, False, mx.async_eval

    def __call__(self, *arrays: Any) -> None:
        is_round = isinstance(arrays[0], list) and len(arrays[0]) == len(BODIES)
        self._refuses = self._refuses or (is_round and len(arrays) > 1)
        if self._refuses and self.lasts and len(arrays) > 1:
            self.lasts -= 1
            raise RuntimeError("the device has no memory")
        self._own(*arrays)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()
    monkeypatch.setattr(mx, "async_eval", device)
    return device


class InRounds(Served):
    def engine(self) -> Any:
        engine = super().engine()
        engine.model.row_finding = RowFinding(8, round_rows=8)
        return engine


async def asked_at_once(client: Client) -> list[Answer]:
    """An answer of each dialect, as a stream."""
    bodies = {path: {**body, "stream": True} for path, body in BODIES.items()}
    return await asyncio.gather(*(client.post(path, body) for path, body in bodies.items()))


def test_each_dialect_tells_what_ended_its_answer_and_the_next_one_is_served(
    device: Device,
) -> None:
    """Nobody can go on by itself either: one refusal of the round, and one of each."""
    device.lasts = 1 + len(BODIES)
    served = InRounds(script(ScriptedReply("One word after the other. ", repeat=4000, delay_ms=1)))

    async def work(client: Client) -> tuple[list[Answer], list[Answer]]:
        failed = await asked_at_once(client)
        short = {CHAT: "max_tokens", MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
        later = [await client.post(path, {**body, short[path]: 3}) for path, body in BODIES.items()]
        return failed, later

    (chat, messages, responses), later = served.run(work)
    assert device.lasts == 0
    assert chat.chunks[-1]["error"]["message"] == WHY
    assert b'"finish_reason":"' not in chat.body
    assert messages.frames[-1].startswith("event: error\n")
    assert messages.chunks[-1]["error"] == {"type": "api_error", "message": WHY}
    assert responses.chunks[-1]["type"] == "response.failed"
    assert responses.chunks[-1]["response"]["error"]["message"] == WHY
    assert [one.status for one in later] == [200] * 3


def test_answers_that_can_go_on_alone_are_whole_in_each_dialect(device: Device) -> None:
    text = "One word after the other. " * 40
    device.lasts = 1
    served = InRounds(script(ScriptedReply(text, delay_ms=1)))
    chat, messages, responses = served.run(asked_at_once)
    assert device.lasts == 0
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chat.chunks) == text
    deltas = [one.get("delta", {}) for one in messages.chunks]
    assert "".join(one.get("text", "") for one in deltas) == text
    assert responses.chunks[-1]["response"]["output"][0]["content"][0]["text"] == text
