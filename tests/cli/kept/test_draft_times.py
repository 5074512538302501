"""What was measured of drafts is there at the next start, on the same machine alone."""

from pathlib import Path

import pytest

from cli.kept.draft_times import DraftTimes, kept_draft_times
from dsv4_mlx.engine.draft_history import Acceptance, DraftHistory, Timings
from tests.cli.running import run
from tests.cli.scripted import opening, write_chat_folder


def measured() -> DraftHistory:
    timings = Timings()
    timings.add(2, 0.25)
    return DraftHistory({7: timings}, {"tool": Acceptance([0.5] * 7, [3] * 7)})


def test_a_history_comes_back_on_the_same_machine_alone(tmp_path: Path) -> None:
    folder = tmp_path / "drafts"
    DraftTimes(folder, "model gpu").store("mtp", measured())
    assert DraftTimes(folder, "model gpu").load("mtp") == measured()
    assert DraftTimes(folder, "model gpu").load("lookup") == DraftHistory()
    assert DraftTimes(folder, "model other").load("mtp") == DraftHistory()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"seconds": 3}'])
def test_a_file_that_is_none_is_an_empty_history(content: bytes, tmp_path: Path) -> None:
    times = DraftTimes(tmp_path, "model")
    times.store("mtp", measured())
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert times.load("mtp") == DraftHistory()


def test_what_cannot_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "drafts").write_text("a file")
    DraftTimes(tmp_path / "drafts", "model").store("mtp", measured())
    assert DraftTimes(tmp_path / "drafts", "model").load("mtp") == DraftHistory()


@pytest.mark.parametrize(("options", "files"), [((), 1), (("--no-save",), 0)])
def test_an_answer_with_drafts_keeps_what_it_measured(
    options: tuple[str, ...], files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSV4_HOME", str(tmp_path / "home"))
    folder = write_chat_folder(tmp_path / "model")
    line = ("--model", folder, "-p", "x", "--think", "none", "--draft", "lookup", *options)
    reply = "one two three four five six seven eight nine ten eleven twelve"
    assert run(*line, open_model=opening(reply)).status == 0
    kept = list((tmp_path / "home" / "drafts").glob("*-lookup.json"))
    assert len(kept) == files
    assert kept_draft_times({"DSV4_HOME": str(tmp_path)}, False)(None) is None  # type: ignore[arg-type]
