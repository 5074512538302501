"""Writing files: what is shown before, what is written after, and what stays as it is."""

import errno
import os
from pathlib import Path

import pytest

from cli.tools.difference import unified
from tests.cli.tools.asking import Person, run, toolbox
from tests.files.lacking import NO_MODES, NO_REPLACE, NO_SYNC, lacking, named, refused

NO_RENAME_OVER = [failing for failing in NO_REPLACE if failing[0] == "rename over a file"]


def test_a_new_file_is_shown_whole_and_written_after_a_yes(tmp_path: Path) -> None:
    person = Person("y")
    text = run(toolbox(tmp_path, person), "write_file", path="a.txt", content="one\ntwo\n")
    assert text == f"{tmp_path}/a.txt was written, 8 bytes."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "one\ntwo\n"
    (question,) = person.asked
    assert question.text == "write a new file?"
    assert question.details == (f"{tmp_path}/a.txt", "+one", "+two")


def test_an_overwrite_is_shown_as_a_difference(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    person = Person("y")
    run(toolbox(tmp_path, person), "write_file", path="a.txt", content="one\nTWO\nthree\nfour")
    path = f"{tmp_path}/a.txt"
    assert person.asked[0].text == "replace this file?"
    assert person.asked[0].details == (
        path, f"--- {path}", f"+++ {path}", "@@ -1,3 +1,4 @@",
        " one", "-two", "+TWO", " three", "+four\\ no newline at the end",
    )  # fmt: skip


def test_a_no_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    text = run(toolbox(tmp_path, Person("n")), "write_file", path="a.txt", content="new")
    assert text == "Error: The user did not allow this."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_always_covers_this_folder_and_none_below(tmp_path: Path) -> None:
    person = Person("a", "n")
    box = toolbox(tmp_path, person)
    run(box, "write_file", path="a.txt", content="a")
    run(box, "write_file", path="b.txt", content="b")
    assert len(person.asked) == 1
    assert run(box, "write_file", path="sub/c.txt", content="c").startswith("Error")
    assert run(box, "write_file", path="../d.txt", content="d").startswith("Error")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_outside_and_new_folders_are_said(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    person = Person("y")
    run(toolbox(tmp_path / "work", person), "write_file", path="../new/deep/a.txt", content="a")
    assert person.asked[0].text == (
        f"write a new file outside the working folder, in the new folder {tmp_path}/new/deep?"
    )
    assert (tmp_path / "new" / "deep" / "a.txt").read_text(encoding="utf-8") == "a"


def test_a_link_is_written_through_with_its_target_shown(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "target.txt").write_text("old", encoding="utf-8")
    (tmp_path / "work" / "link").symlink_to("../target.txt")
    person = Person("y")
    run(toolbox(tmp_path / "work", person), "write_file", path="link", content="new")
    assert person.asked[0].details[0] == f"{tmp_path}/target.txt"
    assert (tmp_path / "target.txt").read_text(encoding="utf-8") == "new"
    assert (tmp_path / "work" / "link").is_symlink()


def test_a_file_that_changes_during_the_question_is_left(tmp_path: Path) -> None:
    def change(question):
        (tmp_path / "a.txt").write_text("changed by somebody", encoding="utf-8")
        return "y"

    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    text = run(toolbox(tmp_path, change), "write_file", path="a.txt", content="new")
    assert text == f"Error: {tmp_path}/a.txt changed meanwhile; nothing was written."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "changed by somebody"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_exchanged_for_a_link_during_the_question_is_not_followed(tmp_path: Path) -> None:
    def exchange(question):
        (tmp_path / "work" / "sub").rmdir()
        (tmp_path / "work" / "sub").symlink_to(tmp_path / "elsewhere")
        return "y"

    (tmp_path / "work" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    text = run(toolbox(tmp_path / "work", exchange), "write_file", path="sub/a", content="a")
    assert "cannot be reached" in text
    assert os.listdir(tmp_path / "elsewhere") == []


def test_the_mode_of_a_replaced_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("old", encoding="utf-8")
    (tmp_path / "a.sh").chmod(0o750)
    run(toolbox(tmp_path, Person("y")), "write_file", path="a.sh", content="new")
    assert (tmp_path / "a.sh").stat().st_mode & 0o777 == 0o750


def test_the_same_content_is_not_asked_about(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("same", encoding="utf-8")
    person = Person("y")
    text = run(toolbox(tmp_path, person), "write_file", path="a.txt", content="same")
    assert (text.endswith("nothing was written."), person.asked) == (True, [])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A working folder `work`, and beside it what a model could want to know about."""
    (tmp_path / "work").mkdir()
    (tmp_path / "secret").write_text("same", encoding="utf-8")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    "path", ["secret", "large", "sub", "pipe", "nothing", "secret/a", "sub/a", "no/a"]
)
@pytest.mark.parametrize("content", ["same", "other"])
def test_nothing_about_the_outside_is_told_without_a_yes(
    outside: Path, path: str, content: str
) -> None:
    person = Person("n")
    box = toolbox(outside / "work", person)
    text = run(box, "write_file", path=f"../{path}", content=content)
    assert text == "Error: The user did not allow this."
    assert len(person.asked) == 1
    assert person.asked[0].details[0] == f"{outside}/{path}"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("secret", "already has this content; nothing was written."),
        ("large", "has more than 1,048,576 bytes; it stays as it is."),
        ("sub", "is a folder."),
    ],
)
def test_a_yes_tells_about_the_outside(outside: Path, path: str, told: str) -> None:
    person = Person("y")
    box = toolbox(outside / "work", person)
    text = run(box, "write_file", path=f"../{path}", content="same")
    assert text.removeprefix("Error: ") == f"{outside}/{path} {told}"
    assert len(person.asked) == 1


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    text = run(toolbox(tmp_path, Person("y")), "write_file", path="sub", content="x")
    assert text == f"Error: {tmp_path}/sub is a folder."


def test_a_long_difference_is_shown_in_full_when_asked(tmp_path: Path) -> None:
    person = Person("f", "y")
    content = "".join(f"{number}\n" for number in range(500))
    run(toolbox(tmp_path, person), "write_file", path="a.txt", content=content)
    short, full = person.asked
    assert short.details[-1] == "[441 more lines; f shows them]"
    assert dict(short.choices)["f"] == "show in full"
    assert full.details[-1] == "+499"
    assert len(full.details) == 501
    assert "f" not in dict(full.choices)


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("a\x1b[2Jb", "+a\\x1b[2Jb"),
        ("a\rb", "+a\\rb"),
        ("a\u202eb", "+a\\u202eb"),
        ("a\u200bb", "+a\\u200bb"),
        ("a\u2028+b", "+a\\u2028+b"),
        ("a\x9b2J", "+a\\x9b2J"),
        ("a\u3164b\u115f", "+a\\u3164b\\u115f"),
        ("a\u2800b", "+a\\u2800b"),
        ("a\u034fb\ufe0f", "+a\\u034fb\\ufe0f"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_an_escape(tmp_path: Path, hidden: str, shown: str) -> None:
    person = Person("n")
    run(toolbox(tmp_path, person), "write_file", path="a.txt", content=f"{hidden}\n")
    assert person.asked[0].details[1:] == (shown,)


def test_a_difference_of_many_different_lines_leaves_nothing_out() -> None:
    before = [f"a{number}" for number in range(3_000)]
    after = [f"b{number}" for number in range(3_000)]
    old, new = "\n".join(["same", *before, "end", ""]), "\n".join(["same", *after, "end", ""])
    assert unified(old.encode(), new, "x") == [
        "@@ -2,3000 +2,3000 @@",
        *(f"-{line}" for line in before),
        *(f"+{line}" for line in after),
    ]


def test_a_file_that_is_no_text_is_replaced_with_its_size_shown() -> None:
    assert unified(b"\xff\xfe", "new\n", "x") == ["[now 2 bytes that are no text]", "+new"]


@pytest.mark.parametrize("failing", [*NO_MODES, *NO_SYNC, *NO_RENAME_OVER], ids=named)
def test_whatever_a_disk_lacks_a_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, int]
) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    (tmp_path / "a.txt").chmod(0o640)
    if failing in NO_RENAME_OVER:
        refused(monkeypatch, os, "replace", failing[1])
    else:
        lacking(monkeypatch, *failing)
    text = run(toolbox(tmp_path, Person("y")), "write_file", path="a.txt", content="new")
    assert text == f"{tmp_path}/a.txt was replaced, 3 bytes."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_rename_that_fails_altogether_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    refused(monkeypatch, os, "replace", errno.EEXIST)

    def is_new(name: str, *_: object, **__: object) -> bool:
        return name.endswith(".partial")

    refused(monkeypatch, os, "rename", errno.EIO, is_new)
    text = run(toolbox(tmp_path, Person("y")), "write_file", path="a.txt", content="new")
    assert text == f"Error: {tmp_path}/a.txt: Input/output error."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
