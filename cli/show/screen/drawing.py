"""Rich renderables as what a terminal surface draws: finished text with escape codes, or cells.

Whatever a renderable holds, only its text, its styles and its links leave here: the text without
control characters, and no control segments.
"""

from collections.abc import Mapping
from functools import lru_cache
from io import StringIO
from threading import Lock
from typing import TYPE_CHECKING

from cli.safe import harmless

if TYPE_CHECKING:
    from rich.color import Color
    from rich.console import RenderableType
    from rich.segment import Segment
    from rich.style import Style

Fragments = list[tuple[str, str]]
"""prompt-toolkit's formatted text: a style and a text, again and again."""


class Drawing:
    """Draws renderables for one terminal."""

    def __init__(self, variables: Mapping[str, str], *, styled: bool = True) -> None:
        """`styled` False leaves all escape codes out."""
        from rich.console import Console

        self._styled = styled
        self._lock = Lock()  # any thread shows text, and the console has one width at a time
        self._console = Console(
            file=StringIO(),
            force_terminal=True,
            color_system="auto" if styled else None,
            markup=False,
            highlight=False,
            emoji=False,
            legacy_windows=False,
            _environ=dict(variables),
        )

    def text(self, renderable: "RenderableType", width: int) -> str:
        """What to write to the terminal for good: whole lines, with escape codes."""
        lines = self._lines(renderable, width)
        return "".join(self._written(line) + "\r\n" for line in lines)

    def cells(self, renderable: "RenderableType", width: int, height: int) -> list[Fragments]:
        """The last `height` lines as prompt-toolkit's fragments."""
        lines = self._lines(renderable, width)
        return [
            [(_cell_style(segment.style) if self._styled else "", segment.text) for segment in line]
            for line in lines[max(0, len(lines) - height) :]
        ]

    def _lines(self, renderable: "RenderableType", width: int) -> "list[list[Segment]]":
        from rich.segment import Segment

        with self._lock:
            self._console.width = width
            lines = self._console.render_lines(renderable, pad=False)
        return [
            [
                Segment(harmless(segment.text), segment.style)
                for segment in line
                if not segment.control
            ]
            for line in lines
        ]

    def _written(self, line: "list[Segment]") -> str:
        console = self._console
        system = console._color_system  # rich's own Console.print reads it the same way
        pieces = []
        for segment in line:
            style = segment.style
            if style is None:
                pieces.append(segment.text)
                continue
            if console.no_color:
                style = style.without_color
            if style.link and not _is_plain(style.link):
                style = style.update_link(None)
            pieces.append(style.render(segment.text, color_system=system))
        return "".join(pieces)


def _is_plain(link: str) -> bool:
    """Whether a link can stand inside an escape sequence without ending it."""
    return link.isprintable() and harmless(link) == link


@lru_cache(maxsize=512)
def _cell_style(style: "Style | None") -> str:
    """A rich style in prompt-toolkit's words."""
    if style is None:
        return ""
    words = [
        name
        for name in ("bold", "dim", "italic", "underline", "strike", "blink", "reverse")
        if getattr(style, name)
    ]
    if style.color is not None and not style.color.is_default:
        words.append(f"fg:{_colour(style.color)}")
    if style.bgcolor is not None and not style.bgcolor.is_default:
        words.append(f"bg:{_colour(style.bgcolor)}")
    return " ".join(words)


_ANSI = (
    "ansiblack",
    "ansired",
    "ansigreen",
    "ansiyellow",
    "ansiblue",
    "ansimagenta",
    "ansicyan",
    "ansigray",
    "ansibrightblack",
    "ansibrightred",
    "ansibrightgreen",
    "ansibrightyellow",
    "ansibrightblue",
    "ansibrightmagenta",
    "ansibrightcyan",
    "ansiwhite",
)


def _colour(color: "Color") -> str:
    """The first sixteen by name, so that the terminal's own palette is kept; others as RGB."""
    if color.number is not None and color.number < 16:
        return _ANSI[color.number]
    return color.get_truecolor().hex
