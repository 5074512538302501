"""Events between the two threads: in their order, joined, and no more than are wanted."""

import asyncio
from threading import Thread

from cli.serve.bridge import EventBridge, Numbered, joined
from dsv4_mlx.chat.events import Progress, ReasoningDelta, TextDelta
from dsv4_mlx.serving.events import CallArguments, CallBegun

PATIENCE_S = 60.0


def test_pieces_of_the_same_in_a_row_are_one() -> None:
    events: list[Numbered] = [
        (0, ReasoningDelta("a")),
        (0, ReasoningDelta("b")),
        (0, TextDelta("c")),
        (1, TextDelta("d")),
        (1, TextDelta("e")),
        (1, CallBegun("x", "ls")),
        (1, CallArguments("x", "{")),
        (1, CallArguments("x", "}")),
        (1, CallArguments("y", "{}")),
    ]
    assert joined(events) == [
        (0, ReasoningDelta("ab")),
        (0, TextDelta("c")),
        (1, TextDelta("de")),
        (1, CallBegun("x", "ls")),
        (1, CallArguments("x", "{}")),
        (1, CallArguments("y", "{}")),
    ]


def test_a_request_whose_events_nobody_takes_is_full_until_they_are_taken() -> None:
    async def main() -> None:
        woken: list[bool] = []
        bridge = EventBridge(
            asyncio.get_running_loop(), lambda: woken.append(bridge.is_full), most_pending=3
        )
        for done in range(2):
            bridge.emit(0, Progress(done, 9))
        assert not bridge.is_full
        bridge.emit(0, Progress(2, 9))
        assert bridge.is_full and not woken
        taken = await bridge.take(PATIENCE_S)
        assert [event for _, event in taken] == [Progress(done, 9) for done in range(3)]
        assert woken == [False]
        assert await bridge.take(0.0) == ()

    asyncio.run(main())


def test_all_events_of_another_thread_come_in_their_order() -> None:
    async def main() -> list[Numbered]:
        bridge = EventBridge(asyncio.get_running_loop(), lambda: None)
        thread = Thread(target=lambda: [bridge.emit(0, Progress(n, 5000)) for n in range(5000)])
        thread.start()
        taken: list[Numbered] = []
        while len(taken) < 5000:
            taken += await bridge.take(PATIENCE_S)
        thread.join()
        return taken

    assert asyncio.run(main()) == [(0, Progress(n, 5000)) for n in range(5000)]


def test_an_event_for_a_loop_that_has_ended_is_nobodys() -> None:
    loop = asyncio.new_event_loop()
    bridge = EventBridge(loop, lambda: None)
    loop.close()
    bridge.emit(0, Progress(1, 2))
