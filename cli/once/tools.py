"""Tools where one message is answered: nobody is there to allow anything, so what would be asked
about is refused, as a person would refuse it, and the model goes on with that."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event as Flag
from typing import TYPE_CHECKING, Final, TypeAlias

from cli.show.output import PlainOutput
from cli.show.surface import Question
from cli.tools.use import ToolUse
from dsv4_mlx.chat.events import Done, Event
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.errors import Dsv4Error

if TYPE_CHECKING:
    from cli.tools.use import MakeToolbox
    from dsv4_mlx.chat.conversation import Conversation

MOST_ROUNDS: Final = 100
"""Answers to one message whose calls are run: nobody is there to stop a model that never ends."""
_NO_MORE: Final = "Error: no more calls are run for this message; answer with what there is."


@dataclass(frozen=True)
class ToolOutput:
    """What a tool that the model called gave it."""

    name: str
    result: str


TurnEvent: TypeAlias = Event | ToolOutput
"""What happens while one message is answered; Done ends each of the model's answers to it."""


class ToolsAlone:
    """Tools that start now and end with `close`; they do what needs no permission."""

    def __init__(self, make: "MakeToolbox", output: PlainOutput) -> None:
        """`output` is told what is refused, and what kept a tool from being there."""
        self._stop, self._output = Flag(), output
        self._use = ToolUse(make, self._refuse, self._stop.is_set)
        self._use.turn(True)

    def stop(self) -> None:
        """End the tool that runs, and call no other; from signal handlers too."""
        self._stop.set()

    def close(self) -> None:
        """End what runs for them."""
        self._use.leave()

    def offer(self, conversation: "Conversation") -> None:
        """Tell the model of them from its next answer on; waits for those that are starting."""
        for problem in self._use.problems():
            self._output.error(problem)
        definitions = self._use.definitions()
        conversation.settings = replace(conversation.settings, tools=definitions)

    def turn(
        self, conversation: "Conversation", first: Generator[Event, None, None]
    ) -> Generator[TurnEvent, None, None]:
        """All events of a turn that begins with the answer `first`: what the model calls is run,
        and it goes on with the results, until it calls nothing.

        After MOST_ROUNDS answers with calls it is told to answer without; Dsv4Error if it calls
        again.
        """
        calls = yield from self._answer(conversation, first)
        rounds = 0
        while calls:
            rounds += 1
            if rounds > MOST_ROUNDS + 1:
                raise Dsv4Error(
                    f"The model called tools in {rounds} answers to one message, of which "
                    f"{MOST_ROUNDS} were run; ask for less at once."
                )
            results: list[tuple[str, str]] = []
            for call in calls:
                result = self._use.run(call) if rounds <= MOST_ROUNDS else _NO_MORE
                yield ToolOutput(call.name, result)
                results.append((call.id, result))
            calls = yield from self._answer(conversation, conversation.answer_tools(results))

    def _answer(
        self, conversation: "Conversation", events: Generator[Event, None, None]
    ) -> Generator[Event, None, list[ToolCall]]:
        """The events of one answer; the calls in it that wait for results."""
        calls: list[ToolCall] = []
        reason = ""
        if self._stop.is_set():
            conversation.cancel()
        with closing(events):
            for event in events:
                if isinstance(event, ToolCall):
                    calls.append(event)
                elif isinstance(event, Done):
                    reason = event.finish_reason
                yield event
        return calls if reason == "tool_calls" else []

    def _refuse(self, question: Question) -> str:
        self._output.note(f"[refused, since nobody is asked here: {question.text}]")
        return "n"
