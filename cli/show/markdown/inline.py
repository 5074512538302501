"""Markdown inside one block: emphasis, code, links and mathematics, as rich's text.

Links show their address in words, and never as a terminal hyperlink: a model must not be able to
put one address behind the name of another. Mathematics stays as it is written. HTML is text, apart
from `<br>`.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from cli.safe import drawable
from cli.show.theme import Theme

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token
    from rich.text import Text

# As pandoc has it: a dollar before a space or after one is money, and so is one before a digit.
_MATH = re.compile(
    r"""\\\( .+? \\\) | \\\[ .+? \\\]
      | \$\$ [^$]+ \$\$
      | \$ (?![\s$]) (?:\\.|[^$\\`])*? (?<![\s\\]) \$ (?!\d)""",
    re.DOTALL | re.VERBOSE,
)
_MARKUP = re.compile(r"[*_`\[\]<&\\~$]")
_PRODUCT = re.compile(r"[A-Za-z0-9)\]](\*+)[A-Za-z0-9(\[]")
_CODE = re.compile(r"`[^`]*`")
_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
_ROLES = {"em": "emphasis", "strong": "strong", "s": "struck"}


def inline_text(source: str, theme: Theme, base: str = "") -> "Text":
    """`source` drawn with `theme`; `base` is the role of what has no other."""
    from rich.text import Text

    text = Text(style=theme.style(base), tab_size=4)
    if _MARKUP.search(source) is None:
        return text.append(drawable(source))
    _Writer(text, theme).write(_parser().parseInline(source)[0].children or [])
    return text


def mended(source: str) -> str:
    """`source`, the beginning of a text, with the code or the strong words that are open closed.

    So they look from their first letter on as they will when their end has come.
    """
    shown = source.rstrip("*_ ")
    outside = _CODE.sub("", shown)
    if "`" in outside:
        return shown[:-1] if shown.endswith("`") else f"{shown}`"
    return f"{shown}**" if outside.count("**") % 2 else shown


@cache
def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")
    # Definitions stand at the end of an answer, long after what refers to them is printed.
    parser.disable(["html_inline"])
    parser.inline.ruler.before("escape", "math", _math)
    parser.inline.ruler.before("escape", "break", _break)
    parser.inline.ruler.before("emphasis", "product", _product)
    return parser


def _math(state: "StateInline", silent: bool) -> bool:
    """Markdown-it's rule for a formula: one token with all of it."""
    if state.src[state.pos] not in "\\$":
        return False
    found = _MATH.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.push("math", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _break(state: "StateInline", silent: bool) -> bool:
    """Markdown-it's rule for `<br>`, which models use in tables."""
    found = (
        _BREAK.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "<" else None
    )
    if found is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def _product(state: "StateInline", silent: bool) -> bool:
    """Markdown-it's rule for asterisks between letters or digits, as in `2*3*4`: they are text.

    By the letter of CommonMark they could be emphasis, and the reader would see `234`.
    """
    found = _PRODUCT.match(state.src, max(0, state.pos - 1), state.posMax)
    if found is None or found.start(1) != state.pos:
        return False
    if not silent:
        state.pending += found[1]
    state.pos = found.end(1)
    return True


class _Writer:
    """Appends markdown-it's tokens to a text."""

    def __init__(self, text: "Text", theme: Theme) -> None:
        self._text = text
        self._theme = theme
        self._roles: list[str] = []
        self._links: list[tuple[str, int]] = []  # address, where the text of the link begins

    def write(self, tokens: "list[Token]") -> None:
        for token in tokens:
            self._token(token)

    def _token(self, token: "Token") -> None:
        match token.type:
            case "softbreak" | "hardbreak":
                self._append("\n")
            case "code_inline":
                self._append(f"`{token.content}`", "code")
            case "math":
                self._append(token.content, "math")
            case "link_open":
                self._links.append((str(token.attrs.get("href", "")), len(self._text)))
                self._roles.append("link")
            case "link_close":
                self._end_link()
            case "image":
                self._append(f"[image: {token.content}]" if token.content else "[image]")
                self._address(str(token.attrs.get("src", "")))
            case _ if token.tag in _ROLES:
                self._emphasis(token)
            case _:
                self._append(token.content)

    def _emphasis(self, token: "Token") -> None:
        if token.nesting == 1:
            self._roles.append(_ROLES[token.tag])
        if self._theme.marks:
            self._append(token.markup)
        if token.nesting == -1:
            self._roles.pop()

    def _end_link(self) -> None:
        self._roles.pop()
        address, start = self._links.pop()
        shown = self._text.plain[start:]
        if address not in (shown, f"mailto:{shown}"):
            self._address(address)

    def _address(self, address: str) -> None:
        if address:
            self._append(" (")
            self._append(address, "address")
            self._append(")")

    def _append(self, text: str, role: str = "") -> None:
        from rich.style import Style

        roles = [*self._roles, role]
        style = Style.combine([self._theme.style(name) for name in roles])
        # The last gate before the screen: entities such as `&#x202e;` have become characters here.
        self._text.append(drawable(text), style)
