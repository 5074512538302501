"""What the model may read without asking, what only after a yes, and what never."""

import os
from pathlib import Path

import pytest

from cli.tools import files, workspace
from cli.tools.tool import LONGEST_RESULT
from tests.cli.tools.asking import Person, run, toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "work"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    (inside / "sub" / "b.txt").write_text("b", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    return inside


@pytest.mark.parametrize("path", ["a.txt", "./sub/../a.txt", "{folder}/a.txt"])
def test_files_inside_are_read_without_asking(folder: Path, path: str) -> None:
    person = Person()
    text = run(toolbox(folder, person), "read_file", path=path.format(folder=folder))
    assert (text, person.asked) == ("one\ntwo\nthree\n", [])


def test_a_link_that_stays_inside_is_followed(folder: Path) -> None:
    (folder / "link").symlink_to("sub")
    assert run(toolbox(folder), "read_file", path="link/b.txt") == "b"


@pytest.mark.parametrize("path", ["../secret.txt", "{outside}", "link", "folder/secret.txt"])
def test_everything_outside_is_asked_about_with_its_real_path(folder: Path, path: str) -> None:
    outside = folder.parent / "secret.txt"
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to("..")
    person = Person("n")
    box = toolbox(folder, person)
    text = run(box, "read_file", path=path.format(outside=outside))
    assert text == "Error: The user did not allow this."
    (question,) = person.asked
    assert question.text == "read a file outside the working folder?"
    assert question.details == (str(outside),)
    assert question.default == "n"


def test_a_yes_allows_one_file_once(folder: Path) -> None:
    person = Person("y")
    box = toolbox(folder, person)
    assert run(box, "read_file", path="../secret.txt") == "secret"
    assert run(box, "read_file", path="../secret.txt") == "secret"
    assert len(person.asked) == 2


def test_always_covers_this_tool_in_this_folder_only(folder: Path) -> None:
    (folder.parent / "other.txt").write_text("other", encoding="utf-8")
    (folder.parent / "deeper").mkdir()
    (folder.parent / "deeper" / "c.txt").write_text("c", encoding="utf-8")
    person = Person("a", "n")
    box = toolbox(folder, person)
    assert run(box, "read_file", path="../secret.txt") == "secret"
    assert run(box, "read_file", path="../other.txt") == "other"
    assert len(person.asked) == 1
    assert f"in {folder.parent}, not below it" in dict(person.asked[0].choices)["a"]
    assert run(box, "read_file", path="../deeper/c.txt").startswith("Error")
    assert run(box, "list_folder", path="..").startswith("Error")
    assert len(person.asked) == 3


def test_always_covers_a_listing_of_this_folder_only(folder: Path) -> None:
    (folder.parent / "beside").mkdir()
    person = Person("a", "n")
    box = toolbox(folder, person)
    assert run(box, "list_folder", path="../beside").endswith("is empty.")
    assert run(box, "list_folder", path="../beside").endswith("is empty.")
    assert len(person.asked) == 1
    assert run(box, "list_folder", path="..").startswith("Error")


@pytest.mark.parametrize("answer", ["", "x", "f", "yes"])
def test_only_a_yes_is_a_yes(folder: Path, answer: str) -> None:
    text = run(toolbox(folder, Person(answer)), "read_file", path="../secret.txt")
    assert text == "Error: The user did not allow this."


def test_another_conversation_asks_again(folder: Path) -> None:
    run(toolbox(folder, Person("a")), "read_file", path="../secret.txt")
    person = Person("n")
    run(toolbox(folder, person), "read_file", path="../secret.txt")
    assert len(person.asked) == 1


def test_a_link_put_there_after_the_look_is_not_followed(folder: Path) -> None:
    """A race: the file is exchanged for a link between the check and the opening."""
    place = workspace.Workspace(folder)
    looked_at = place.place("sub/b.txt")
    (folder / "sub" / "b.txt").unlink()
    (folder / "sub" / "b.txt").symlink_to("../../secret.txt")
    with pytest.raises(workspace.ToolError, match="cannot be reached"):
        place.open_file(looked_at)


def test_a_folder_exchanged_for_a_link_is_not_followed(folder: Path) -> None:
    place = workspace.Workspace(folder)
    looked_at = place.place("sub/secret.txt")
    (folder / "sub").rename(folder / "gone")
    (folder / "sub").symlink_to("..")
    with pytest.raises(workspace.ToolError, match="cannot be reached"):
        place.open_file(looked_at)


def test_an_outside_file_exchanged_after_the_yes_is_not_read(folder: Path) -> None:
    def exchange(question):
        (folder.parent / "allowed.txt").unlink()
        (folder.parent / "allowed.txt").symlink_to("secret.txt")
        return "y"

    (folder.parent / "allowed.txt").write_text("allowed", encoding="utf-8")
    text = run(toolbox(folder, exchange), "read_file", path="../allowed.txt")
    assert text.startswith("Error: ") and "cannot be reached" in text


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("missing.txt", "No such file or directory."),
        ("a.txt/b", "cannot be reached"),
        ("sub", "is a folder."),
        (".", "is a folder."),
        ("pipe", "is no ordinary file."),
        ("binary", "is no text file: it has NUL bytes in it."),
        ("latin", "is no UTF-8 text."),
        ("loop", "cannot be reached"),
        ("a\0b", "A path must be a text without NUL"),
        ("n" * 300, "File name too long."),
    ],
)
def test_what_cannot_be_read_says_why(folder: Path, path: str, sentence: str) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "binary").write_bytes(b"a\0b")
    (folder / "latin").write_bytes(b"caf\xe9")
    (folder / "loop").symlink_to("loop")
    text = run(toolbox(folder), "read_file", path=path)
    assert text.startswith("Error: ")
    assert sentence in text


def test_lines_can_be_chosen(folder: Path) -> None:
    box = toolbox(folder)
    assert run(box, "read_file", path="a.txt", first_line=2, lines=1) == "two\n"
    assert run(box, "read_file", path="a.txt", first_line=2) == "two\nthree\n"
    assert run(box, "read_file", path="a.txt", first_line=9).endswith("has only 3 lines.")


def test_long_files_come_in_pieces_that_say_where_to_go_on(folder: Path) -> None:
    lines = [f"line {number}\n" for number in range(1, 20_001)]
    (folder / "long.txt").write_text("".join(lines), encoding="utf-8")
    box = toolbox(folder)
    first = run(box, "read_file", path="long.txt")
    text, note = first.rsplit("\n[", 1)
    assert len(text) <= LONGEST_RESULT
    following = int(note.partition("first_line = ")[2].rstrip("]"))
    assert text + "\n" == "".join(lines[: following - 1]) + "\n"
    assert run(box, "read_file", path="long.txt", first_line=following).startswith(
        f"line {following}\n"
    )


def test_a_long_line_is_cut_and_says_so(folder: Path) -> None:
    (folder / "line.txt").write_text("x" * 50_000, encoding="utf-8")
    text = run(toolbox(folder), "read_file", path="line.txt")
    assert text == "x" * files.LONGEST_LINE + " [line cut: 40,000 more characters]\n"


def test_folders_are_listed_with_sizes_and_links(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "odd\nname").write_text("", encoding="utf-8")
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9", os.O_CREAT))
    assert run(toolbox(folder), "list_folder") == (
        "a.txt  14 bytes\ncaf?  0 bytes\nlink -> /etc/passwd\nodd\\nname  0 bytes\nsub/"
    )


def test_a_long_listing_is_cut_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_ENTRIES", 1)
    assert run(toolbox(folder), "list_folder") == "a.txt  14 bytes\n[cut here: 1 more entries]"


def test_a_listing_of_a_file_or_of_nothing_is_a_sentence(folder: Path) -> None:
    (folder / "empty").mkdir()
    assert run(toolbox(folder), "list_folder", path="a.txt").endswith("a.txt is no folder.")
    assert run(toolbox(folder), "list_folder", path="empty") == f"{folder}/empty is empty."
