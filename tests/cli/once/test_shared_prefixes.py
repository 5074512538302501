"""What several messages begin with is read once, also by programs that start later."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import run
from tests.cli.scripted import opening, write_chat_folder

ROOT = Path(__file__).parents[3]
DIFF = "".join(f"+ line {number} of the change\n" for number in range(200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


def usage(output: str) -> dict[str, int]:
    return json.loads(output.splitlines()[-1])["usage"]


def asked(folder: Path, home: Path, question: str, *more: str, piped: str = DIFF) -> dict[str, int]:
    """The usage that --json tells of one question about a text."""
    done = run(
        "--model", folder, "--json", "--think", "none", "-p", question, *more, piped=piped,
        variables={"DSV4_HOME": str(home)}, open_model=opening("It is fine."),
    )  # fmt: skip
    assert (done.status, done.stderr) == (0, "")
    return usage(done.stdout)


def read(usage: dict[str, int]) -> int:
    return usage["prompt_tokens"] - usage["cached_tokens"]


def test_a_second_question_about_the_same_text_reads_the_rest_only(
    folder: Path, tmp_path: Path
) -> None:
    first = asked(folder, tmp_path, "Review this.")
    second = asked(folder, tmp_path, "What does it change?")
    assert first["cached_tokens"] == 0
    assert first["prompt_tokens"] > 2000
    assert read(second) < 50


def test_attached_files_are_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("change.diff").write_text(DIFF)
    asked(folder, tmp_path, "Review @change.diff", piped="")
    assert read(asked(folder, tmp_path, "What does @change.diff change?", piped="")) < 60


def test_another_text_is_read_whole(folder: Path, tmp_path: Path) -> None:
    asked(folder, tmp_path, "Review this.")
    assert asked(folder, tmp_path, "Review this.", piped=f"x{DIFF}")["cached_tokens"] == 0


def test_a_damaged_file_costs_a_reading_and_is_replaced(folder: Path, tmp_path: Path) -> None:
    asked(folder, tmp_path, "Review this.")
    for file in (tmp_path / "prefixes").iterdir():
        file.write_bytes(b"\x80\x04damaged")
    assert asked(folder, tmp_path, "Review this.")["cached_tokens"] == 0  # and removes it
    assert asked(folder, tmp_path, "Review this.")["cached_tokens"] == 0  # and keeps it anew
    assert read(asked(folder, tmp_path, "And this?")) < 50


def test_nothing_is_kept_when_nothing_should_be(folder: Path, tmp_path: Path) -> None:
    asked(folder, tmp_path, "Review this.", "--no-save")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_embedded_model_says_the_same_with_a_stored_prefix(tmp_path: Path) -> None:
    def answer(home: str, question: str) -> tuple[str, dict[str, int]]:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "-p", question, "--json", "--no-stream", "--temp", "0",
             "--think", "none", "--max-tokens", "40"],
            input=DIFF, capture_output=True, text=True, check=True, cwd=ROOT,
            env={"PATH": os.environ["PATH"], "DSV4_HOME": str(tmp_path / home)},
        )  # fmt: skip
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        (said,) = [line["text"] for line in lines if line["type"] == "text_delta"]
        return said, usage(done.stdout)

    answer("warm", "Review this.")
    said, used = answer("warm", "What does it change?")
    said_cold, used_cold = answer("cold", "What does it change?")
    assert used_cold["cached_tokens"] == 0
    assert read(used) < 50 < used["cached_tokens"]
    assert said == said_cold
    for file in (tmp_path / "warm" / "prefixes").iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
