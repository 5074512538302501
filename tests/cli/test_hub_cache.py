"""A repository in a hub's cache as the model: its newest snapshot is taken, and named."""

from pathlib import Path

import pytest

from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    repository = tmp_path / "models--deepseek-ai--DeepSeek-V4-Flash"
    for revision in ("aaa", "bbb"):
        (repository / "snapshots" / revision).mkdir(parents=True)
        write_chat_folder(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa")
    return repository


def test_one_message_says_which_snapshot_answers(cache: Path) -> None:
    done = run("--model", cache, "-p", "2+2?", "--think", "none", open_model=opening("Four."))
    assert done == Run(0, "Four.\n", f"[{cache}: snapshot aaa of the hub's cache is used]\n")


def test_a_change_of_model_says_it_too(cache: Path, tmp_path: Path) -> None:
    own = write_chat_folder(tmp_path / "own")
    typed = f"/model {cache}\n/quit\n"
    done = run("--model", own, typed=typed, open_model=opening("Four."))
    assert done.status == 0
    said = done.stdout + done.stderr
    assert f"{cache}: snapshot aaa of the hub's cache is used" in said
    assert f"model {cache / 'snapshots' / 'aaa'}" in said
