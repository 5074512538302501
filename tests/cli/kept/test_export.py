"""Conversations as files: JSON that reads back, Markdown and HTML that are safe to open."""

import json
import stat
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cli.kept import export
from cli.kept.export_markdown import as_markdown
from dsv4_mlx.chat.messages import parse_messages
from dsv4_mlx.errors import UsageError

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
MESSAGES = [
    {"role": "system", "content": "Be calm."},
    {"role": "user", "content": "What is 2 < 3?\n  <b>indented</b>"},
    {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "```\ntrue"},
    {
        "role": "assistant",
        "content": "# Yes\n\nIt *is*.",
        "reasoning_content": "",
        "tool_calls": [],
    },
]
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\n\n</div></section></details></pre>\n\n"
    "[x](javascript:alert(1)) <javascript:alert(1)> ![p](https://e.example/p.png)\n\n"
    '```html" onclick="alert(1)\n</code></pre><script>\n```\n\n'
    "\x1b]52;c;AAAA\x07\x9b2J\u202e\n\n```open"
)


class Tags(HTMLParser):
    """Collects tags and attributes; complains about ends that match nothing."""

    VOID = frozenset({"meta", "br", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_json_is_the_messages_and_reads_back(tmp_path: Path) -> None:
    export.write(tmp_path / "a.json", MESSAGES)
    data = json.loads((tmp_path / "a.json").read_text())
    assert data == {"messages": MESSAGES}
    assert parse_messages(data["messages"]) == parse_messages(MESSAGES)


texts = st.text(alphabet=st.characters(blacklist_categories=["Cs"]))


@given(st.lists(st.tuples(texts, texts, texts)))
def test_json_round_trips_any_text(turns: list[tuple[str, str, str]]) -> None:
    messages = []
    for asked, thought, said in turns:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": said, "reasoning_content": thought})
    assert json.loads(export.as_json(messages)) == {"messages": messages}


def test_markdown_is_for_reading(tmp_path: Path) -> None:
    export.write(tmp_path / "a.md", MESSAGES, title="Sums")
    assert (tmp_path / "a.md").read_text() == (
        "# Sums\n\n## System\n\nBe calm.\n\n"
        "## You\n\nWhat is 2 < 3?\n  <b>indented</b>\n\n"
        "## Answer\n\n<details>\n<summary>Reasoning</summary>\n\nHm.\n\n</details>\n\n"
        'Calls `add`:\n\n```json\n{"a": 1}\n```\n\n'
        "## Tool result\n\n````\n```\ntrue\n````\n\n"
        "## Answer\n\n# Yes\n\nIt *is*.\n"
    )


@pytest.mark.parametrize("ending", ["md", "html", "json"])
def test_reasoning_can_be_left_out(tmp_path: Path, ending: str) -> None:
    export.write(tmp_path / f"a.{ending}", MESSAGES, reasoning=False)
    text = (tmp_path / f"a.{ending}").read_text()
    assert "Hm." not in text
    assert "easoning" not in text


@pytest.mark.parametrize("text", ["```\ncode", "~~~~ py\n```\n~~~", "a\n   ````x\n```", "> ok"])
def test_a_fence_left_open_ends_with_its_message(text: str) -> None:
    messages = [{"role": "assistant", "content": text}, {"role": "user", "content": "next"}]
    tokens = MarkdownIt().parse(as_markdown(messages, "t"))
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings == ["t", "Answer", "You"]


def test_html_runs_and_fetches_nothing() -> None:
    messages = [
        {"role": role, "content": HOSTILE, "reasoning_content": HOSTILE, "tool_calls": [
            {"function": {"name": HOSTILE, "arguments": HOSTILE}}
        ]}
        for role in ("system", "user", "assistant", "tool", HOSTILE)
    ]  # fmt: skip
    page = export.writer_for(Path("a.html"))(messages, HOSTILE)
    tags = Tags(page)
    assert tags.open == []
    assert not tags.tags & {"script", "img", "link", "iframe", "object", "base"}
    assert {name for name, _ in tags.attributes} <= {
        "lang", "charset", "http-equiv", "content", "name", "class", "href"
    }  # fmt: skip
    assert {value for name, value in tags.attributes if name == "href"} == {
        "https://e.example/p.png"
    }
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in tags.attributes
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(page)


def test_html_renders_markdown_and_highlights_code() -> None:
    code = "| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nreturn '<x>'\n```"
    page = export.writer_for(Path("a.html"))([{"role": "assistant", "content": code}], "t")
    assert "<td>1</td>" in page
    assert '<span class="k">return</span>' in page
    assert "&lt;x&gt;" in page


def test_html_leaves_latex_readable() -> None:
    maths = r"So \(a_1 * b_2 * c\) and \[x_1 \\ y_1\] and $$\sum_i x_i$$ hold."
    page = export.writer_for(Path("a.html"))([{"role": "assistant", "content": maths}], "t")
    assert maths in page


@pytest.mark.parametrize("ending", ["md", "html", "json"])
def test_the_file_is_for_its_owner(tmp_path: Path, ending: str) -> None:
    export.write(tmp_path / f"a.{ending}", MESSAGES)
    assert stat.S_IMODE((tmp_path / f"a.{ending}").stat().st_mode) == 0o600


def test_a_file_that_is_there_stays_unless_asked(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export.write(file, MESSAGES)
    assert file.read_text() == "mine"
    export.write(file, MESSAGES, overwrite=True)
    assert file.read_text().startswith("# Conversation")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"expected a file that ends in \.md, \.json or \.html"):
        export.write(tmp_path / name, MESSAGES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export.write(tmp_path / "a.md", MESSAGES)
