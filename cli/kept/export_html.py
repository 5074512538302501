"""A conversation as one HTML page: no script, nothing fetched, readable in light and dark.

Markdown comes from markdown-it with HTML switched off, so whatever a message spells stays text;
pictures become links, or opening the page would fetch them. The page also forbids scripts and
fetches to the browser.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from cli.kept.message_text import MessageRecord, calls_of, one_line, reasoning_of, speaker, text_of

_STYLE = """\
:root { color-scheme: light dark; --text: #1c1c1e; --soft: #6a6a70; --line: #dcdce0;
  --back: #ffffff; --code: #f4f4f6; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e7; --soft: #9a9aa2; --line: #3a3a40;
  --back: #18181b; --code: #242428; --link: #7ab7ff; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
section > h2 { font-size: .85rem; color: var(--soft); margin: 2rem 0 .4rem;
  text-transform: uppercase; letter-spacing: .06em; }
a { color: var(--link); } section { border-top: 1px solid var(--line); overflow-wrap: anywhere; }
.said { white-space: pre-wrap; } details { color: var(--soft); } summary { cursor: pointer; }
pre { background: var(--code); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto;
  overflow-wrap: normal; } code { font: .9em/1.45 ui-monospace, monospace; }
table { border-collapse: collapse; }
td, th { border: 1px solid var(--line); padding: .25rem .6rem; }
blockquote { border-left: 3px solid var(--line); margin-left: 0; padding-left: 1rem; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MOST_HIGHLIGHTED = 200_000
_MATHS = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"))


def as_html(messages: Sequence[MessageRecord], title: str) -> str:
    """The whole page."""
    shown = escape(one_line(title))
    body = "\n".join(_section(message) for message in messages)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>\n{_STYLE}{_code_style()}</style>\n</head>\n<body>\n"
        f"<h1>{shown}</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(message: MessageRecord) -> str:
    parts = "\n".join(_parts(message))
    return f"<section>\n<h2>{escape(speaker(message))}</h2>\n{parts}\n</section>"


def _parts(message: MessageRecord) -> Iterator[str]:
    if thoughts := reasoning_of(message):
        yield f"<details>\n<summary>Reasoning</summary>\n{_markdown(thoughts)}</details>"
    if text := text_of(message):
        if message.get("role") == "assistant":
            yield _markdown(text)
        elif message.get("role") == "tool":
            yield f"<pre><code>{escape(text)}</code></pre>"
        else:  # as it was typed
            yield f'<div class="said">{escape(text)}</div>'
    for name, arguments in calls_of(message):
        yield f"<p>Calls <code>{escape(name)}</code>:</p>\n{_code_block(arguments, 'json')}"


def _markdown(text: str) -> str:
    parser = MarkdownIt("commonmark", {"html": False, "highlight": _code_block})
    parser.enable(["table", "strikethrough"])
    parser.inline.ruler.before("escape", "maths", _maths)
    parser.add_render_rule("image", _picture_as_link)
    return str(parser.render(text))


def _maths(state: StateInline, silent: bool) -> bool:
    """LaTeX stays as it was written: Markdown would eat its backslashes and underscores."""
    for opening, closing in _MATHS:
        if state.src.startswith(opening, state.pos):
            end = state.src.find(closing, state.pos + len(opening))
            if end < 0:
                return False
            if not silent:
                state.push("text", "", 0).content = state.src[state.pos : end + len(closing)]
            state.pos = end + len(closing)
            return True
    return False


def _picture_as_link(
    renderer: RendererHTML, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    token = tokens[index]
    address = escape(str(token.attrs.get("src", "")))
    words = escape(token.content or "picture")
    return f'<a href="{address}">{words}</a>'


def _code_block(code: str, language: str, attributes: str = "") -> str:
    return f'<pre><code class="code">{_highlighted(code, language)}</code></pre>\n'


def _highlighted(code: str, language: str) -> str:
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import get_lexer_by_name
        from pygments.util import ClassNotFound
    except ImportError:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False) if language else None
    except ClassNotFound:
        lexer = None
    if lexer is None or len(code) > _MOST_HIGHLIGHTED:
        return escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _code_style() -> str:
    """Colours of code for light and dark pages."""
    try:
        from pygments.formatters import HtmlFormatter
    except ImportError:
        return ""
    light, dark = (
        "\n".join(
            line
            for line in HtmlFormatter(style=style, nobackground=True)
            .get_style_defs(".code")
            .splitlines()
            if line.startswith(".code .")  # the rest is for line numbers
        )
        for style in ("xcode", "github-dark")
    )
    return "".join(
        f"@media (prefers-color-scheme: {scheme}) {{\n{rules}\n}}\n"
        for scheme, rules in (("light", light), ("dark", dark))
    )
