"""The training benchmark with workers that answer without a model: turns, medians, failures."""

import csv

import pytest

from benchmarks import record, training

WORKER = """
import json, pathlib, sys
seconds = json.loads(pathlib.Path("seconds.json").read_text())
for _ in sys.stdin:
    if not seconds:
        break
    cpu = seconds.pop(0)
    with open(sys.argv[0] + ".turns", "a") as file:
        file.write(pathlib.Path.cwd().name + " ")
    print("a line of a library", flush=True)
    print(json.dumps({"cpu_s": cpu, "wall_s": 2 * cpu, "peak_bytes": 2**30}), flush=True)
print(json.dumps({"error": "OutOfMemory: no room\\nand more"}), flush=True)
"""


@pytest.fixture
def checkouts(tmp_path, monkeypatch):
    """Two checkouts whose steps take given seconds, and the file of who had a turn."""
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(training, "WORKER", worker)
    folders = {name: tmp_path / name for name in ("before", "now")}
    for folder in folders.values():
        folder.mkdir()
    (folders["before"] / "seconds.json").write_text("[90, 8, 6, 7]")
    (folders["now"] / "seconds.json").write_text("[50, 2, 4, 2]")
    return folders, tmp_path / "worker.py.turns"


def test_checkouts_take_turns_and_the_first_step_of_each_does_not_count(checkouts):
    folders, turns = checkouts
    rows = training.compared(folders, 256, 1000, 3, "off", [])
    assert turns.read_text().split() == ["before", "now"] * 4
    assert [row["cpu_s"] for row in rows] == [7, 2]
    assert [row["wall_s"] for row in rows] == [14, 4]
    assert [row["tokens"] for row in rows] == [768, 768]  # whole sequences
    assert [row["tokens_per_cpu_s"] for row in rows] == [110, 384]
    assert [row["times_before"] for row in rows] == [1, 3.5]
    assert {row["peak_gib"] for row in rows} == {1}


def test_a_checkout_that_fails_is_a_row_that_says_so_and_the_other_goes_on(checkouts):
    folders, _ = checkouts
    (folders["before"] / "seconds.json").write_text("[1]")
    before, now = training.compared(folders, 256, 1000, 3, "off", [])
    assert before["note"] == "OutOfMemory: no room" and "cpu_s" not in before
    assert now["cpu_s"] == 2 and "times_before" not in now


def test_several_workers_are_a_row_of_their_own_compared_by_the_wall(checkouts):
    folders, _ = checkouts
    (folders["now"] / "seconds.json").write_text("[5, 2, 2]")
    rows = training.compared({"now": folders["now"]}, 256, 1000, 2, "off", [], workers=2)
    assert [row["version"] for row in rows] == ["now", "now, 2 workers"]
    assert [row["note"][:4] for row in rows[1:]] == ["1.00"] and "note" not in rows[0]


def test_the_rows_are_kept_with_their_command(checkouts, tmp_path, monkeypatch):
    folders, _ = checkouts
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(training, "ROOT", folders["now"])
    words = ["training", "--before", str(folders["before"]), "--lengths", "256", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", words)
    training.main()
    with (tmp_path / "training.csv").open(newline="") as file:
        before, now = csv.DictReader(file)
    assert (
        before["command"] == "python -m benchmarks.training --before DIR --lengths 256 --rounds 1"
    )
    assert (before["version"], now["version"], now["times_before"]) == ("before", "now", "4.0")
