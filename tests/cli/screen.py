"""A surface that keeps what it was given, drawn as text of a fixed width."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, RenderableType

from cli.show.renderer import MarkdownView
from cli.show.surface import NO_HOOKS, Count, Hooks, Question, Status
from cli.show.theme import DARK, Theme
from dsv4_mlx.chat.events import Event


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """`printed` is what was shown for good; `live_text` is what is live now, when drawn."""

    def __init__(self, width: int = 72, *, colours: bool = False) -> None:
        self.width = width
        self.frames = 0
        self._live: RenderableType | None = None
        self._file = io.StringIO()
        system: Any = "standard" if colours else None
        self._console = Console(
            file=self._file,
            width=width,
            color_system=system,
            force_terminal=colours,
            _environ={},
        )

    @property
    def printed(self) -> str:
        return self._file.getvalue()

    @property
    def live_text(self) -> str:
        with self._console.capture() as captured:
            if self._live is not None:
                self._console.print(self._live)
        self.frames += 1
        return captured.get()

    @property
    def is_still(self) -> bool:
        """Nothing is live."""
        return self._live is None

    def show(self, renderable: RenderableType) -> None:
        self._console.print(renderable)

    def live(self, renderable: RenderableType | None) -> None:
        self._live = renderable

    def submissions(self) -> Iterator[str]:
        return iter(())

    def status(self, status: Status) -> None: ...

    def ask(self, question: Question) -> str:
        return question.default

    def prefill(self, text: str) -> None: ...

    def give_back(self) -> None: ...

    def run(self, controller: Any, hooks: Hooks = NO_HOOKS) -> Any:
        return controller()


def viewed(
    events: Sequence[Event],
    *,
    width: int = 72,
    theme: Theme = DARK,
    colours: bool = False,
    count: Count | None = None,
    **options: Any,
) -> Screen:
    """The screen after `events`, drawn live after each; a second passes after each as well."""
    screen, clock = Screen(width, colours=colours), Clock()
    view = MarkdownView(screen, theme, clock=clock, **options)
    view.begin(count)
    for event in events:
        view.feed(event)
        _ = screen.live_text
        clock.now += 1
    view.end()
    return screen
