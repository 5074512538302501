"""What a conversation is led by: levels in a circle, and changes from two threads."""

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


def test_a_level_chosen_while_a_command_changes_something_else_is_kept() -> None:
    """Shift-Tab comes on the thread that draws, whatever the controller does meanwhile."""
    seen: list[Any] = []
    surface = SimpleNamespace(status=seen.append, ask=None)
    view = SimpleNamespace(note=None, error=None)
    model: Any = SimpleNamespace(
        name="nano", backend="cpu", wired=0, settings=ChatSettings("2026-04", MAX_LEVEL_CONTEXT)
    )
    models, toolbox, folder = None, None, None
    branches = Branches(Keeping(None, seen.append, seen.append))
    chat: Any = Chat(surface, view, models, model, Preferences(), branches, toolbox, folder)  # type: ignore[arg-type]
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
