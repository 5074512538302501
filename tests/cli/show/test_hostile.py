"""Whatever a model writes, the terminal gets text and our own styles, and in bounded work."""

import random
import re
from typing import Any

import pytest
from rich.console import RenderableType

from cli.safe import harmless
from cli.show.renderer import MarkdownView
from cli.show.theme import DARK
from dsv4_mlx.chat.events import ReasoningDelta, TextDelta
from tests.cli.hostile import hostile
from tests.cli.screen import Screen
from tests.cli.work import counted

OUR_STYLES = re.compile(r"\x1b\[(?:\d{1,2}(?:;\d{1,2})*)?m")


WIDTHS = (80, 40, 8)


class Screens:
    """One surface that is several screens; live lines are drawn on each in turn."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self._screens = [Screen(width, colours=True) for width in widths]
        self.width = widths[0]
        self._frames: list[str] = []

    def show(self, renderable: RenderableType) -> None:
        for screen in self._screens:
            screen.show(renderable)

    def live(self, renderable: RenderableType | None) -> None:
        screen = self._screens[len(self._frames) % len(self._screens)]
        screen.live(renderable)
        self._frames.append(screen.live_text)

    @property
    def received(self) -> str:
        return "".join([*self._frames, *(screen.printed for screen in self._screens)])


def shown(text: str, widths: tuple[int, ...]) -> str:
    """All that the screens were given while `text` came in pieces."""
    screens, chance = Screens(widths), random.Random(len(text))
    view: Any = MarkdownView(screens, DARK, reasoning="show")  # type: ignore[arg-type]
    view.feed(ReasoningDelta(text[:200]))
    start = 0
    while start < len(text):
        size = chance.randint(1, 2_000)
        view.feed(TextDelta(text[start : start + size]))
        start += size
    view.end()
    view.unfold_last()
    return screens.received


FIRST, *LATER = [range(20), range(20, 50), *(range(n, n + 50) for n in range(50, 500, 50))]


@pytest.mark.parametrize(
    "seeds",
    [
        FIRST,
        *(
            pytest.param(seeds, marks=pytest.mark.slow if seeds.start < 200 else pytest.mark.soak)
            for seeds in LATER
        ),
    ],
)
def test_only_text_and_our_own_styles_reach_the_terminal(seeds: range) -> None:
    for seed in seeds:
        plain = OUR_STYLES.sub("", shown(hostile(seed), WIDTHS))
        assert harmless(plain) == plain, f"seed {seed}"


def test_a_terminal_of_almost_no_columns_raises_nothing() -> None:
    for seed in range(5):
        shown(hostile(seed), (3, 2, 1))


@pytest.mark.parametrize("seed", range(12))
def test_the_work_is_bounded_by_the_text(seed: int) -> None:
    text = hostile(seed)
    assert counted(lambda: shown(text, (80,))) < 100_000 + 500 * len(text)
