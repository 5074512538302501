"""Searching in files: what is found, what is left out, and what can be stopped."""

from pathlib import Path

import pytest

from cli.tools import search
from tests.cli.tools.asking import Person, run, toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "work"
    (inside / "sub").mkdir(parents=True)
    (inside / ".git").mkdir()
    (inside / "a.py").write_text("import os\nprint(os.sep)\n", encoding="utf-8")
    (inside / "sub" / "b.txt").write_text("no import here\nIMPORT there\n", encoding="utf-8")
    (inside / ".git" / "c").write_text("import", encoding="utf-8")
    (inside / "binary").write_bytes(b"import\0")
    (tmp_path / "outside.txt").write_text("import", encoding="utf-8")
    (inside / "link").symlink_to("../outside.txt")
    return inside


def test_matching_lines_come_with_file_and_number(folder: Path) -> None:
    assert run(toolbox(folder), "search_in_files", pattern=r"import\b") == (
        "a.py:1: import os\nsub/b.txt:1: no import here\n"
        "[left out: 1 folders of tools such as .git, 1 files that are no text, "
        "1 links and unreadable files]"
    )


def test_case_glob_and_one_file_narrow_the_search(folder: Path) -> None:
    box = toolbox(folder)
    text = run(box, "search_in_files", pattern="import", glob="*.txt", ignore_case=True)
    assert text.splitlines()[:2] == ["sub/b.txt:1: no import here", "sub/b.txt:2: IMPORT there"]
    assert run(box, "search_in_files", pattern="there", path="sub/b.txt") == (
        "b.txt:2: IMPORT there"
    )
    assert run(box, "search_in_files", pattern="zzz", path="sub") == "Nothing matches 'zzz'."


def test_outside_is_asked_about(folder: Path) -> None:
    person = Person("n", "y")
    box = toolbox(folder, person)
    assert run(box, "search_in_files", pattern="import", path="..").startswith("Error: The user")
    assert person.asked[0].details == (str(folder.parent),)
    assert "outside.txt:1: import" in run(box, "search_in_files", pattern="import", path="..")


def test_many_matches_are_cut_and_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_MATCHES", 1)
    text = run(toolbox(folder), "search_in_files", pattern="import")
    assert text.startswith("a.py:1: import os\n[left out: ")
    assert "1 match or more" in text


def test_a_wrong_pattern_is_a_sentence(folder: Path) -> None:
    text = run(toolbox(folder), "search_in_files", pattern="(")
    assert text.startswith("Error: The pattern is no regular expression: missing )")


def test_a_search_that_never_ends_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression that backtracks for ages, ended by its time and by the person."""
    (folder / "sub" / "b.txt").write_text("found\n" + "a" * 60 + "\n", encoding="utf-8")
    monkeypatch.setattr(search, "TIMEOUT_S", 0.5)
    pattern = r"found|(a+)+$b"
    text = run(toolbox(folder), "search_in_files", pattern=pattern, path="sub")
    assert text == "b.txt:1: found\n[stopped after 0.5 s]"
    box = toolbox(folder, stopped=lambda: True)
    monkeypatch.setattr(search, "TIMEOUT_S", 100)
    assert run(box, "search_in_files", pattern=pattern, path="sub").endswith("[stopped]")
