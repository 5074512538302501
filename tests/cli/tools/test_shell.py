"""One command of the person's own: its output, its end, and what it cannot do."""

from pathlib import Path

import pytest

from cli.tools import shell
from cli.tools.shell import Ran, run
from dsv4_mlx.errors import UsageError


def test_both_streams_are_the_text_and_the_status_is_the_shells(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("ls; echo wrong >&2; exit 3", tmp_path) == Ran("file\nwrong\n", 3)


def test_a_signal_counts_as_shells_count(tmp_path: Path) -> None:
    assert run("kill -KILL $$", tmp_path) == Ran("", 137)


def test_there_is_no_input_and_no_terminal(tmp_path: Path) -> None:
    assert run("cat; (: < /dev/tty) 2>/dev/null || echo none", tmp_path) == Ran("none\n", 0)


def test_a_slow_command_is_ended_with_what_it_started(tmp_path: Path) -> None:
    ran = run("echo begun; sleep 100 & sleep 100; echo never", tmp_path, 0.2)
    assert ran == Ran("begun\n[stopped after 0.2 s]\n", 143)


def test_a_command_that_is_stopped_says_so(tmp_path: Path) -> None:
    ran = run("printf half; sleep 100", tmp_path, stopped=lambda: True)
    assert ran.text.endswith("[stopped]\n")
    assert ran.status == 143


def test_what_is_left_in_the_background_is_not_waited_for(tmp_path: Path) -> None:
    ran = run("sleep 100 & echo $!", tmp_path)
    assert ran.status == 0
    assert ran.text.strip().isdigit()


def test_endless_output_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "LARGEST", 1000)
    ran = run("yes", tmp_path)
    assert ran.text == "y\n" * 500 + "[stopped after 1,000 bytes of output]\n"


def test_bytes_that_are_no_text_become_replacement_characters(tmp_path: Path) -> None:
    assert run(r"printf 'a\377b'", tmp_path).text == "a\ufffdb"


def test_a_command_that_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        run("true", tmp_path / "gone")
    with pytest.raises(UsageError, match="null byte"):
        run("echo \0", tmp_path)
