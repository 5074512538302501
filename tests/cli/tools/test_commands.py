"""Running commands: the exact line before, its output and status after, and its bounds."""

from pathlib import Path

import pytest

from cli.tools.tool import LONGEST_RESULT
from tests.cli.tools.asking import Person, run, toolbox


def test_a_command_is_shown_exactly_and_runs_after_a_yes(tmp_path: Path) -> None:
    person = Person("y")
    text = run(toolbox(tmp_path, person), "run_command", command="pwd; echo bad >&2; exit 3")
    assert text == f"{tmp_path}\nbad\n[exit status 3]"
    (question,) = person.asked
    assert question.text == "run this command?"
    assert question.details == ("$ pwd; echo bad >&2; exit 3", f"in {tmp_path}")


def test_a_no_runs_nothing(tmp_path: Path) -> None:
    text = run(toolbox(tmp_path, Person("n")), "run_command", command="touch made")
    assert text == "Error: The user did not allow this."
    assert list(tmp_path.iterdir()) == []


def test_always_covers_exactly_this_command(tmp_path: Path) -> None:
    person = Person("a", "n")
    box = toolbox(tmp_path, person)
    assert run(box, "run_command", command="echo a") == "a\n[exit status 0]"
    assert run(box, "run_command", command="echo a") == "a\n[exit status 0]"
    assert len(person.asked) == 1
    assert run(box, "run_command", command="echo a ").startswith("Error")
    assert run(box, "run_command", command="echo a; echo b").startswith("Error")


def test_lines_and_escapes_of_a_command_cannot_hide(tmp_path: Path) -> None:
    person = Person("n")
    command = "echo a\nin /safe/folder\nrm -rf x\x1b[1A\u202etxt"
    run(toolbox(tmp_path, person), "run_command", command=command)
    assert person.asked[0].details == (
        "$ echo a", "$ in /safe/folder", "$ rm -rf x\\x1b[1A\\u202etxt", f"in {tmp_path}",
    )  # fmt: skip


def test_a_command_that_never_ends_is_ended(tmp_path: Path) -> None:
    box = toolbox(tmp_path, Person("y"))
    text = run(box, "run_command", command="echo first; sleep 100", timeout_s=0.3)
    assert text == "first\n[stopped after 0.3 s]\n[exit status 143]"


def test_a_command_ends_when_the_person_stops_it(tmp_path: Path) -> None:
    box = toolbox(tmp_path, Person("y"), stopped=lambda: True)
    assert "[stopped]" in run(box, "run_command", command="sleep 100")


def test_a_command_gets_no_input(tmp_path: Path) -> None:
    assert run(toolbox(tmp_path, Person("y")), "run_command", command="cat") == "[exit status 0]"


@pytest.mark.parametrize("limit", [LONGEST_RESULT])
def test_a_long_output_keeps_its_ends(tmp_path: Path, limit: int) -> None:
    box = toolbox(tmp_path, Person("y"))
    text = run(box, "run_command", command="seq 1 20000")
    assert text.startswith("1\n2\n3\n")
    assert text.endswith("20000\n[exit status 0]")
    assert "characters left out here]" in text
    assert len(text) < limit + 100


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    box = toolbox(tmp_path, Person("y"))
    assert run(box, "run_command", command=r"printf 'a\377b\n'") == "a\ufffdb\n[exit status 0]"
