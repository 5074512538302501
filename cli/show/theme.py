"""Themes: how each role on the screen looks, in rich's words and in prompt-toolkit's.

Colours come from the terminal's own sixteen, so that they suit its background. Colour never carries
meaning alone: what a role means is told by words, marks or place as well. `plain` has no codes at
all and keeps the marks of Markdown instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsv4_mlx.errors import UsageError

if TYPE_CHECKING:
    from rich.style import Style

NAMES = ("auto", "dark", "light", "plain")


@dataclass(frozen=True)
class Theme:
    """Style strings by role. A role that is absent looks like ordinary text."""

    name: str
    rich: Mapping[str, str]
    """For text above the input: answer, reasoning, note, error, code, math, link, heading…"""
    prompt_toolkit: Mapping[str, str]
    """For the input and the status line, as classes: `class:prompt`, `class:status`, …"""
    code: str | None = None
    """rich's name of a syntax theme, None for code without colours."""
    marks: bool = False
    """Emphasis keeps its asterisks, since nothing else would show it."""

    def style(self, role: str) -> "Style":
        """rich's style of `role`."""
        from rich.style import Style

        return Style.parse(self.rich.get(role, "none"))

    @property
    def has_codes(self) -> bool:
        """Escape codes for styles are welcome."""
        return self.name != "plain"


_DARK_TEXT = {
    "user": "bold",
    "reasoning": "dim",
    "note": "dim",
    "error": "bold red",
    "status": "dim",
    "prompt": "bold cyan",
    "meter": "cyan",
    "heading": "bold",
    "title": "bold underline",
    "emphasis": "italic",
    "strong": "bold",
    "struck": "strike",
    "code": "cyan",
    "math": "magenta",
    "link": "underline",
    "address": "dim",
    "rule": "dim",
    "mark": "dim",
    "quote": "dim",
    "tool": "bold",
    "question": "bold",
}
_DARK_INPUT = {
    "user": "bold",
    "answer": "",
    "reasoning": "ansibrightblack",
    "note": "ansibrightblack",
    "error": "bold ansired",
    "status": "ansibrightblack",
    "status.busy": "ansicyan",
    "meter": "ansicyan",
    "prompt": "bold ansicyan",
    "code": "ansicyan",
    "link": "underline",
    "chip": "ansicyan",
    "question": "bold",
    "completion-menu": "noinherit",
    "completion-menu.completion": "noinherit",
    "completion-menu.completion.current": "noinherit reverse",
    "completion-menu.meta.completion": "noinherit ansibrightblack",
    "completion-menu.meta.completion.current": "noinherit reverse",
    "bottom-toolbar": "noreverse",
}
# Yellow, cyan and bright colours vanish on white; blue and magenta do not.
_LIGHT_TEXT = _DARK_TEXT | {
    "prompt": "bold blue",
    "meter": "blue",
    "code": "blue",
}
_LIGHT_INPUT = _DARK_INPUT | {
    "status.busy": "ansiblue",
    "meter": "ansiblue",
    "prompt": "bold ansiblue",
    "code": "ansiblue",
    "chip": "ansiblue",
}
# Reverse is no colour, and the chosen completion has nothing else to be known by.
_PLAIN_INPUT = {
    "completion-menu": "noinherit",
    "completion-menu.completion": "noinherit",
    "completion-menu.completion.current": "noinherit reverse",
    "completion-menu.meta.completion": "noinherit",
    "completion-menu.meta.completion.current": "noinherit reverse",
    "bottom-toolbar": "noreverse",
}

DARK = Theme("dark", _DARK_TEXT, _DARK_INPUT, code="ansi_dark")
LIGHT = Theme("light", _LIGHT_TEXT, _LIGHT_INPUT, code="ansi_light")
PLAIN = Theme("plain", {}, _PLAIN_INPUT, marks=True)


def theme_named(name: str, variables: Mapping[str, str]) -> Theme:
    """The theme of that name; `auto` asks the terminal's variables, and NO_COLOR comes first.

    Raises UsageError for a name that is none.
    """
    if name not in NAMES:
        raise UsageError(f"there is no theme {name!r}; there are {', '.join(NAMES)}.")
    if variables.get("NO_COLOR") or variables.get("TERM") == "dumb" or name == "plain":
        return PLAIN
    if name == "auto":
        return LIGHT if _has_light_background(variables) else DARK
    return LIGHT if name == "light" else DARK


def _has_light_background(variables: Mapping[str, str]) -> bool:
    """COLORFGBG is `foreground;background` in the numbers of the sixteen colours."""
    background = variables.get("COLORFGBG", "").rpartition(";")[2]
    return background in ("7", "15")
