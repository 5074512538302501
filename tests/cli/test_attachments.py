"""Files behind @: what goes along, in which form, and what is refused in one sentence."""

import contextlib
import glob
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import attachments, patterns
from cli.attachments import Attached, Expanded, expand
from dsv4_mlx.errors import UsageError


def count(text: str) -> int:
    return len(text.split())


def block(name: str, content: str) -> str:
    return f"[file name]: {name}\n[file content begin]\n{content}\n[file content end]\n"


def refusal(text: str, folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        expand(text, folder, count)
    return str(caught.value)


def test_a_message_without_files_is_left_alone(tmp_path: Path) -> None:
    text = "mail me@example.org, cost @ 3"
    assert expand(text, tmp_path, count) == Expanded(text, "", ())


def test_a_file_stands_before_the_message(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    expanded = expand("explain @a.py", tmp_path, count)
    assert expanded.text == block("a.py", "x = 1") + "explain @a.py"
    assert expanded.shared == block("a.py", "x = 1")
    assert expanded.attached == (Attached("a.py", 5, count(expanded.shared)),)
    assert str(expanded.attached[0]) == "a.py (5 B, 12 tokens)"


def test_messages_about_the_same_files_begin_alike(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    first, second = (expand(text, tmp_path, count) for text in ("what is @a.py", "fix @a.py"))
    assert first.shared == second.shared != ""


def test_a_name_with_spaces_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "two words.txt").write_text("hi")
    assert expand('see @"two words.txt".', tmp_path, count).shared == block("two words.txt", "hi")


def test_the_end_of_a_sentence_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    expanded = expand("compare @a.py, @b.py.", tmp_path, count)
    assert expanded.shared == block("a.py", "1") + block("b.py", "2")


def test_a_glob_gives_files_in_order_and_no_folders(tmp_path: Path) -> None:
    for name in ("s/b.py", "s/a.py", "s/deep/c.py", "s/d.py/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [one.path for one in expand("@s/*.py", tmp_path, count).attached]
    assert names == ["s/a.py", "s/b.py"]
    names = [one.path for one in expand("@s/**/*.py", tmp_path, count).attached]
    assert names == ["s/a.py", "s/b.py", "s/deep/c.py"]


def test_a_name_with_glob_characters_means_that_file_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("bracket")
    (tmp_path / "a1.txt").write_text("plain")
    assert expand("@a[1].txt", tmp_path, count).shared == block("a[1].txt", "bracket")


def test_a_file_that_is_named_twice_goes_along_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    assert len(expand("@a.py and @./a.py and @*.py", tmp_path, count).attached) == 1


def test_a_backslash_keeps_an_at_sign(tmp_path: Path) -> None:
    assert expand(r"what is \@dataclass", tmp_path, count).text == "what is @dataclass"


def test_line_ends_and_byte_order_marks_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert expand("@a", tmp_path, count).shared == block("a", "one\ntwo")


def test_a_word_that_names_no_file_stays_text_and_is_told(tmp_path: Path) -> None:
    for text, note in (
        ("what does @dataclass do?", f"@dataclass names no file in {tmp_path} and goes as text"),
        ("how do I install @types/node?", "@types/node? names no file in "),
        ('@"two words" and @*.py', '@"two words" and @*.py name no file in '),
        ("@a @b @c @d @e", "@a, @b, @c and 2 more name no file in "),
        ("@none @none", "@none names no file in "),
    ):
        expanded = expand(text, tmp_path, count)
        assert (expanded.text, expanded.shared, expanded.attached) == (text, "", ())
        (told,) = expanded.notes
        assert told.startswith(note)


def test_files_that_are_asked_for_have_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "two words").write_text("x")
    expanded = expand("why?", tmp_path, count, files=["two words"])
    assert expanded.text == block("two words", "x") + "@two words why?"
    with pytest.raises(UsageError) as caught:
        expand("", tmp_path, count, files=["none.py"])
    assert str(caught.value) == f"no file is called none.py in {tmp_path}."
    with pytest.raises(UsageError, match=r"^no files match \*\.py in "):
        expand("", tmp_path, count, files=["*.py"])


def test_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert refusal("@src", tmp_path) == "src is a folder; attach its files, for example @src/*."


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"a\0b", "data is a binary file; only text can be attached."),
        (
            b"ab\xff",
            "data is not UTF-8 text (byte 2); convert it first, for example with iconv.",
        ),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "data").write_bytes(data)
    assert refusal("@data", tmp_path) == sentence


def test_unreadable_and_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal("@pipe", tmp_path) == "pipe is not a regular file and cannot be attached."
    (tmp_path / "link").symlink_to("nowhere")
    assert refusal("@link", tmp_path) == "link cannot be read: No such file or directory."


def test_all_files_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "LARGEST", 10)
    (tmp_path / "a").write_text("123456")
    (tmp_path / "b").write_text("123456")
    assert len(expand("@a", tmp_path, count).attached) == 1
    assert refusal("@a @b", tmp_path) == (
        "the files up to b have 12 bytes and one message may attach 10; attach fewer."
    )
    (tmp_path / "b").write_text("12345678901")
    assert refusal("@a @b", tmp_path) == (
        "b has 11 bytes and one message may attach 10; attach a part of it."
    )


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "MOST", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    assert refusal("@*", tmp_path).startswith("the message names 3 files and may name 2;")


def test_names_are_made_safe(tmp_path: Path) -> None:
    (tmp_path / "a\x1b]0;x\x07\nb").write_text("1")
    (attached,) = expand("@a*", tmp_path, count).attached
    assert attached.path.isprintable()
    assert len(attached.path.splitlines()) == 1


def test_every_name_of_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "link.py").symlink_to("a.py")
    os.link(tmp_path / "a.py", tmp_path / "hard.py")
    expanded = expand(f"@a.py @link.py @hard.py @*.py @../{tmp_path.name}*/a.py", tmp_path, count)
    assert [one.path for one in expanded.attached] == ["a.py"]


def test_a_link_that_is_named_is_followed_and_one_that_is_matched_is_not(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "a.py").write_text("1")
    (tmp_path / "link").symlink_to("real")
    (names,) = expand("@link/**/*.py", tmp_path, count).attached
    assert names.path == "link/deep/a.py"
    assert expand("@*/deep/*.py", tmp_path, count).attached[0].path == "real/deep/a.py"
    assert expand("@l*/**/*.py", tmp_path, count).attached == ()


def test_what_is_no_text_is_left_out_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.png").write_bytes(b"\0")
    (tmp_path / "c.txt").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "d")
    expanded = expand("@*", tmp_path, count)
    assert [one.path for one in expanded.attached] == ["a.txt"]
    assert expanded.notes == ("left out, since no text or unreadable: b.png and c.txt",)
    (tmp_path / "a.txt").unlink()
    assert refusal("@*", tmp_path) == "b.png is a binary file; only text can be attached."


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c.py").write_text("1")
    scandir = os.scandir

    def refusing(path: str):
        if path.endswith("/a/"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    expanded = expand("@**/*.py", tmp_path, count)
    assert [one.path for one in expanded.attached] == ["c.py"]
    assert expanded.notes == (f"not looked into, since unreadable: {tmp_path}/a/",)


def test_names_that_are_looked_at_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MOST_NAMES", 10)
    for number in range(9):
        (tmp_path / f"{number}.txt").write_text("x")
    assert len(expand("@1.*", tmp_path, count).attached) == 1
    assert refusal("@*.py @1.*", tmp_path) == (
        "@1.* looks at more than 10 names; begin the pattern with the folder that the files are in."
    )


def test_looking_and_reading_can_be_stopped(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text("x")
    for steps in (0, 1, 3, 100):
        left = iter(range(steps))
        with pytest.raises(KeyboardInterrupt):
            expand("@*", tmp_path, count, stopped=lambda: next(left, None) is None)  # noqa: B023


def test_a_file_that_became_another_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaced between the look at it and the opening of it: nothing waits, nothing is read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened(tmp_path / "pipe", flags))
    assert refusal("@file", tmp_path) == "file is not a regular file and cannot be attached."


def test_a_file_that_grows_while_it_is_read_has_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "LARGEST", 4)
    (tmp_path / "log").write_text("")
    monkeypatch.setattr(os, "read", lambda descriptor, count: b"line\n")
    assert refusal("@log", tmp_path) == (
        "log has 5 bytes and one message may attach 4; attach a part of it."
    )


def test_names_of_any_bytes_can_be_typed(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b'a"b.txt', b"it's.txt", b"a\\b.txt", b"\xf0\x9f\x98\x80.txt"):
        (tmp_path / os.fsdecode(name)).write_text("x")
        for typed in (f"@{os.fsdecode(name)}", f"see @{os.fsdecode(name)}, please"):
            expanded = expand(typed, tmp_path, count)
            assert len(expanded.attached) == 1
            expanded.text.encode()
    (tmp_path / 'a "b" c').write_text("x")
    assert len(expand(r'@"a \"b\" c"', tmp_path, count).attached) == 1


def test_no_word_is_worth_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for word in ("a\0b", "~nobody/x", "~nobody/*", "x" * 5000, "x" * 5000 + "/*", "[", "a/" * 3000):
        expanded = expand(f"@{word}", tmp_path, count)
        assert (expanded.text, expanded.attached) == (f"@{word}", ())
        assert len(expanded.notes) == 1
    assert "loop cannot be read" in refusal("@loop", tmp_path)
    assert expand("@loop/*", tmp_path, count).attached == ()


# Patterns in any tree

NAMES = st.sampled_from(["a", "b", ".h", "x.py", "y.py", "two words"])
PARTS = st.sampled_from(["a", "b", ".h", "*", "**", "*.py", "?", "[ab]*", ".*", "x.py", ".", "n*n"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, str], dict[str, str]]:
    """Files with what they hold, and links with where they lead."""
    files = draw(st.dictionaries(PLACES, st.sampled_from(["one", "two"]), max_size=6))
    links = draw(st.dictionaries(PLACES, st.sampled_from([".", "..", "a", "b/a"]), max_size=2))
    return files, links


def grow(folder: Path, files: dict[str, str], links: dict[str, str]) -> None:
    for name, content in files.items():
        with contextlib.suppress(OSError):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    for name, target in links.items():
        with contextlib.suppress(OSError):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target)


@settings(max_examples=60, deadline=None)
@given(trees(), st.lists(PARTS, min_size=1, max_size=4).map("/".join))
def test_patterns_find_what_a_shell_finds_and_no_file_twice(
    tree: tuple[dict[str, str], dict[str, str]], pattern: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        grow(folder, *tree)
        try:
            found = expand(f'@"{pattern}"', folder, count)
        except UsageError as error:
            assert "is a folder" in str(error) or "cannot be read" in str(error)
            return
        names = [one.path for one in found.attached]
        assert len({(folder / one).resolve() for one in names}) == len(names)
        if not tree[1] and not (folder / pattern).exists():
            shell = glob.glob(pattern, root_dir=folder, recursive=True)
            # As texts: a Path drops the slash of "a/", which is no file.
            files = [one for one in shell if os.path.isfile(os.path.join(folder, one))]
            expected = sorted({os.path.normpath(one) for one in files})
            assert [os.path.normpath(one) for one in names] == expected
