"""A small program on a `TerminalSurface`, for its scenarios: surface_program.py [WORDS].

What is sent says what happens: each `do_` method is a command, all else is repeated.
"""

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.text import Text

from cli.environment import Environment
from cli.show.screen.completion import Completions
from cli.show.screen.terminal import TerminalSurface
from cli.show.surface import Hooks, Question, Status
from cli.show.theme import theme_named

COMMANDS = {"undo": "take the last turn back", "unfold": "show it", "think": "set the level"}
PACE_S = 0.005


class Program:
    """The controller."""

    def __init__(self) -> None:
        environment = Environment()
        self.surface = TerminalSurface(
            environment,
            theme_named("auto", environment.variables),
            history=Path("state/history"),
            completions=Completions(COMMANDS),
        )
        self.stop = threading.Event()
        self.level = 0

    def arguments(self, command: str, typed: str) -> list[str]:
        levels = ["none", "high", "max"] if command == "think" else []
        return [level for level in levels if level.startswith(typed)]

    def cycle(self) -> None:
        self.level += 1
        self.status()

    def status(self, busy: str = "") -> None:
        self.surface.status(
            Status("nano", f"l{self.level}", used_tokens=1234, context_tokens=4096, busy=busy)
        )

    def say(self, text: str) -> None:
        self.surface.show(Text(text))

    def run(self) -> int:
        self.status()
        for text in self.surface.submissions():
            self.stop.clear()
            self.status("working")
            command, _, argument = text.partition(" ")
            action = getattr(self, f"do_{command}", None)
            if action is None:
                self.say(f"you said {text}")
            else:
                action(argument)
            self.status()
        self.say("saved")
        return 7

    def do_stream(self, word: str) -> None:
        """Numbered lines until Ctrl-C; the live area holds the last, unfinished ones."""
        number = 0
        while not self.stop.wait(PACE_S):
            number += 1
            self.surface.live(Text(f"{word} {number} comes\nand more of it"))
            if number % 10 == 0:
                self.say(f"{word} {number} done")
                self.surface.live(None)
        self.surface.live(None)
        self.say(f"stopped after {number}")

    def do_tall(self, argument: str) -> None:
        """A live text of so many lines until Ctrl-C."""
        self.surface.live(Text("\n".join(f"tall {n}" for n in range(1, int(argument) + 1))))
        self.stop.wait()
        self.surface.live(None)
        self.say("tall is over")

    def do_wide(self, argument: str) -> None:
        """A live text of so many full lines until Ctrl-C."""
        line = "wide " * (self.surface.width // 5)
        self.surface.live(Text("\n".join([line] * int(argument))))
        self.stop.wait()
        self.surface.live(None)
        self.say("done with it")

    def do_count(self, argument: str) -> None:
        """So many lines at once."""
        for number in range(1, int(argument) + 1):
            self.say(f"line {number}")

    def do_ask(self, argument: str) -> None:
        choices = (("y", "yes"), ("n", "no"), ("a", "always"))
        question = Question("write the file?", (f"+ {argument}",), choices)
        self.say(f"answer {self.surface.ask(question)}")

    def do_hold(self, argument: str) -> None:
        """Busy until Ctrl-C."""
        self.stop.wait()
        self.say("released")

    def do_prefill(self, argument: str) -> None:
        self.surface.prefill(argument)

    def do_length(self, argument: str) -> None:
        self.say(f"{len(argument)} characters, {argument.count(chr(10)) + 1} lines")

    def do_fail(self, argument: str) -> None:
        raise ValueError("the controller failed")

    def do_crash(self, argument: str) -> None:
        """An exception on the thread that draws."""
        self.surface.status(None)  # type: ignore[arg-type]
        self.stop.wait()

    def do_vanish(self, argument: str) -> None:
        """Leave at once, as the command does while a model is still loading."""
        self.surface.restore()
        os._exit(9)


if __name__ == "__main__":
    program = Program()
    hooks = Hooks(
        program.stop.set,
        program.cycle,
        lambda: program.say("the reasoning in full"),
        program.arguments,
    )
    sys.exit(program.surface.run(program.run, hooks))
