"""Files behind @: what goes along, in which form, and what is refused in one sentence."""

import os
from pathlib import Path

import pytest

from cli import attachments
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


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert refusal("@none.py", tmp_path) == (
        f"no file is called none.py in {tmp_path}; put a backslash before the @ to send it as text."
    )
    assert refusal("@*.py", tmp_path).startswith("no files match *.py in ")


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
        "b has 6 bytes and one message may attach 10; attach a part of it."
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
