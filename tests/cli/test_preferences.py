"""What a conversation is led by: levels in a circle, and changes from two threads."""

from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from cli.kept.branches import Branches
from cli.kept.keeping import Keeping
from cli.preferences import Preferences
from cli.talk.chat import Chat
from dsv4_mlx.chat.settings import MAX_LEVEL_CONTEXT, ChatSettings


@pytest.mark.parametrize(
    ("context", "circle"),
    [
        (MAX_LEVEL_CONTEXT, ["high", "max", "none", "low"]),
        (MAX_LEVEL_CONTEXT - 1, ["high", "none", "low", "high"]),
    ],
)
def test_the_levels_that_a_checkpoint_can_give_go_round(context: int, circle: list[str]) -> None:
    checkpoint, preferences, found = ChatSettings("2026-07-31", context), Preferences(), []
    for _ in circle:
        preferences = preferences.at_next_level(checkpoint)
        found.append(preferences.think)
    assert found == circle


def chat_of(model: Any, seen: list[Any]) -> Any:
    """A chat about a model, whose status lines go to `seen`."""
    surface = SimpleNamespace(status=seen.append, ask=None)
    view = SimpleNamespace(note=None, error=None)
    branches = Branches(Keeping(None, seen.append, seen.append))
    models, toolbox, folder = None, None, None
    return Chat(surface, view, models, model, Preferences(), branches, toolbox, folder)  # type: ignore[arg-type]


class Nano:
    """What a status line says of a model; `named` happens while it is read."""

    backend, wired = "cpu", 0
    settings = ChatSettings("2026-04", MAX_LEVEL_CONTEXT)

    def __init__(self) -> None:
        self.named: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        named, self.named = self.named, lambda: None
        named()
        return "nano"


def test_a_level_chosen_while_a_command_changes_something_else_is_kept() -> None:
    """Shift-Tab comes on the thread that draws, whatever the controller does meanwhile."""
    seen: list[Any] = []
    chat = chat_of(Nano(), seen)
    pressed = Thread(target=chat.next_level)

    def slowly(preferences: Preferences) -> Preferences:
        pressed.start()
        pressed.join(0.1)  # it waits for this change
        return replace(preferences, seed=7)

    chat.show_status("answering")
    chat.change(slowly)
    pressed.join()
    assert (chat.preferences.seed, chat.preferences.think) == (7, "max")
    assert [(one.mode, one.busy) for one in seen] == [("high", "answering"), ("max", "answering")]


def test_a_level_chosen_while_the_status_is_read_is_what_stays_shown() -> None:
    seen: list[Any] = []
    model = Nano()
    chat = chat_of(model, seen)
    pressed = Thread(target=chat.next_level)

    def press() -> None:
        pressed.start()
        pressed.join(0.1)  # its own status waits for this one

    model.named = press
    chat.show_status()
    pressed.join()
    assert [one.mode for one in seen] == ["high", "max"]
