"""Code in colours, line by line while it is written.

A block of code comes in pieces. What a lexer knows at the end of one, that a string or a comment is
open, goes on in the next without reading the first again.
"""

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Any

from cli.safe import drawable

if TYPE_CHECKING:
    from pygments.lexer import Lexer
    from rich.text import Text

# Some lexers take very long for very long lines, and nobody reads those by their colours.
_LONGEST_LINE = 400

Tokens = Iterator[tuple[int, Any, str]]
"""Position, kind and text of each token."""


class Highlighter:
    """Colours for one block of code; `lines` for each piece in turn."""

    def __init__(self, language: str, theme: str | None) -> None:
        """`theme` is rich's name of a syntax theme, None for no colours."""
        self._lexer = _lexer(language) if theme else None
        self._theme = theme or ""
        self._stack = ["root"]
        self._again = ""

    def copy(self) -> "Highlighter":
        """Another that goes on from here."""
        return copy(self)

    def lines(self, lines: tuple[str, ...]) -> "list[Text]":
        """The next lines, coloured."""
        from rich.text import Text

        source = "".join(f"{drawable(line).expandtabs(4)}\n" for line in lines)
        text = Text(source)
        if self._lexer and not any(len(line) > _LONGEST_LINE for line in lines):
            self._colour(text)
        return list(text.split("\n"))

    def _colour(self, text: "Text") -> None:
        from rich.syntax import Syntax

        theme = Syntax.get_theme(self._theme)
        known = len(self._again)
        for start, kind, value in self._tokens(self._again + text.plain):
            end = start + len(value) - known
            if end > 0:
                text.stylize(theme.get_style_for_token(kind), max(0, start - known), end)

    def _tokens(self, text: str) -> Tokens:
        from pygments.lexer import ExtendedRegexLexer, RegexLexer

        lexer = self._lexer
        assert lexer is not None
        if isinstance(lexer, RegexLexer) and not isinstance(lexer, ExtendedRegexLexer):
            return self._going_on(lexer, text)
        # The others keep no state that could be handed on: each piece is read by itself.
        return iter(lexer.get_tokens_unprocessed(text))

    def _going_on(self, lexer: Any, text: str) -> Tokens:
        """What the lexer's tables of states say, from the state that the last piece ended in.

        Many know a comment only with its end, so one is lent to them.
        """
        whole = text + _missing_end(text)
        stack, position, steps = list(self._stack), 0, 0
        while position < len(text) and steps < 20 * len(text):
            steps += 1  # an empty match moves nothing; a wrong table could do so for ever
            start, before = position, list(stack)
            for match_at, action, new_state in lexer._tokens[stack[-1]]:
                if found := match_at(whole, position):
                    position = found.end()
                    yield from _acted(lexer, action, found)
                    _enter(stack, new_state)
                    break
            else:
                stack = ["root"] if text[position] == "\n" else stack
                position += 1
        self._again, self._stack = "", stack
        if position > len(text):
            # A token goes on: its first line, which opens it, is read again before the next lines.
            self._again, self._stack = text[start : text.index("\n", start) + 1], before


def _missing_end(text: str) -> str:
    """The end of a comment where one may be open."""
    return "*/" if "/*" in text else "-->" if "<!--" in text else ""


def _acted(lexer: Any, action: Any, found: Any) -> Tokens:
    if action is None:
        return
    if callable(action) and not isinstance(action, tuple):
        for position, kind, value in action(lexer, found):
            yield position, kind, value or ""
        return
    yield found.start(), action, found[0]


def _enter(stack: list[str], new_state: Any) -> None:
    """Push and pop as pygments' states say; the outermost stays."""
    if isinstance(new_state, int):
        del stack[max(1, len(stack) + new_state) :]
        return
    states = new_state if isinstance(new_state, tuple) else (new_state,)
    for state in states if new_state is not None else ():
        if state == "#pop":
            del stack[max(1, len(stack) - 1) :]
        else:
            stack.append(stack[-1] if state == "#push" else state)


def _lexer(language: str) -> "Lexer | None":
    """Pygments' lexer for the first word of a fence's info, None for a language it has none for."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    words = language.replace("{", " ").replace(",", " ").replace("}", " ").split()
    try:
        lexer: Lexer = get_lexer_by_name(words[0].lstrip(".")) if words else None
    except ClassNotFound:
        return None
    return lexer
