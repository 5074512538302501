"""Timelines on disk: what a restart finds, how little is written, what damage and limits cost."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.serving.disk_tier import DiskTier
from dsv4_mlx.serving.timelines import Timelines
from tests.engine.sessions import expected
from tests.serving.lines import answered, engine

A = list(range(2, 42))


def opened(folder: Path, budget: int = 1 << 30, **options: int) -> Timelines:
    """Timelines of a program that just began."""
    one: Engine = engine()
    lines = Timelines(one, 1 << 30)
    tier = DiskTier(folder, one, budget, clock=lambda: 0.0, **{"least_tokens": 4, **options})
    lines.tier = tier
    return lines


def asked(lines: Timelines, prompt: list[int], count: int, *beginnings: int) -> list[int]:
    """What follows `prompt`; it is written to disk."""
    with lines.open(prompt) as line:
        list(line.session.reading(prompt, beginnings))
        ids = [token.id for token in line.session.stream(count, stop_ids=())]
        lines.keep(line, beginnings)
        lines.store(line, beginnings)
    return ids


def tier(lines: Timelines) -> DiskTier:
    assert lines.tier is not None
    return lines.tier


def length_of(path: Path) -> int:
    return int(path.name.split("-")[2])


def test_a_restart_reads_only_what_is_new(tmp_path: Path) -> None:
    said = asked(opened(tmp_path), A, 5)
    lines = opened(tmp_path)
    assert answered(lines, [*A, *said, 7, 8], 3) == (45, expected([*A, *said, 7, 8], 3))
    assert answered(opened(tmp_path), [*A[:39], 100], 3) == (39, expected([*A[:39], 100], 3))
    assert answered(opened(tmp_path), [*A, *said], 3) == (45, expected([*A, *said], 3))


def test_what_is_read_from_disk_shares_no_memory_with_what_is_held(tmp_path: Path) -> None:
    prompt = [*A, *asked(opened(tmp_path), A, 5), 7]
    lines = opened(tmp_path)
    there, lines.tier = lines.tier, None
    answered(lines, A[:20])
    held = lines.pin(prompt)
    assert held.tokens == 20 and held.shared_bytes > 0
    held.release()
    lines.tier = there
    both, stored = lines.pin(prompt), opened(tmp_path).pin(prompt)
    assert both.tokens == stored.tokens == 45 and both.shared_bytes == 0
    assert both.held is not None and stored.held is None


def test_a_turn_writes_what_it_grew_by(tmp_path: Path) -> None:
    lines, prompt = opened(tmp_path), A * 100
    sizes = []
    for turn in range(5):
        prompt += [*asked(lines, prompt, 6), 50 + turn]
        sizes.append(max(tmp_path.glob("*.kv"), key=length_of).stat().st_size)
    assert all(4 * size < sizes[0] for size in sizes[1:])
    again = opened(tmp_path)
    assert answered(again, prompt, 3) == (len(prompt) - 1, expected(prompt, 3))


def test_a_branch_goes_on_from_the_file_of_the_other(tmp_path: Path) -> None:
    lines = opened(tmp_path)
    asked(lines, A, 5)
    for other in (100, 101):
        asked(lines, [*A[:39], other, *A], 3)
    for other in (100, 101):
        prompt = [*A[:39], other, *A, 7]
        assert answered(opened(tmp_path), prompt, 3) == (79, expected(prompt, 3))


def test_a_reading_that_was_left_is_gone_on_with(tmp_path: Path) -> None:
    lines = opened(tmp_path)
    with lines.open(A) as line:
        reading = line.session.reading(A, [10])
        assert [next(reading), next(reading)] == [0, 16]
        reading.close()
        lines.keep(line)
        lines.store(line)
    assert answered(opened(tmp_path), A, 3) == (16, expected(A, 3))
    assert answered(opened(tmp_path), A[:16], 3) == (10, expected(A[:16], 3))


def test_beginnings_are_files_of_their_own_and_outlive_what_followed(tmp_path: Path) -> None:
    lines = opened(tmp_path)
    for other in (100, 101, 102):
        asked(lines, [*A, other, *A], 3, 40)
    again = opened(tmp_path)
    tier(again).budget_bytes = 4_000
    tier(again)._shrink()
    assert len(tier(again)) == 1
    assert answered(again, [*A, 103], 3) == (40, expected([*A, 103], 3))


def test_another_owner_finds_nothing(tmp_path: Path) -> None:
    asked(opened(tmp_path), A, 5)
    lines = opened(tmp_path)
    assert answered(lines, A, 2, owner="other")[0] == 0
    tier(lines).forget("")
    assert len(tier(lines)) == 0 and list(tmp_path.glob("*.kv")) == []


def test_another_model_leaves_the_files_alone(tmp_path: Path) -> None:
    asked(opened(tmp_path), A, 5)
    other = engine()
    other.model.fingerprint = "other"  # type: ignore[misc]
    assert len(DiskTier(tmp_path, other, 0, clock=lambda: 0.0)) == 0
    assert len(tier(opened(tmp_path))) == 1


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_damaged_file_goes_with_those_that_go_on_from_it(tmp_path: Path, keep: int) -> None:
    lines = opened(tmp_path)
    prompt = [*A, *asked(lines, A, 5), 7]
    prompt += [*asked(lines, prompt, 5), 8]
    first = min(tmp_path.glob("*.kv"), key=length_of)
    first.write_bytes(first.read_bytes()[:keep])
    again = opened(tmp_path)
    assert answered(again, prompt, 3) == (0, expected(prompt, 3))
    assert len(tier(again)) == 0


def test_a_file_damaged_while_it_runs_is_read_again(tmp_path: Path) -> None:
    asked(opened(tmp_path), A, 5)
    lines = opened(tmp_path)
    for path in tmp_path.glob("*.kv"):
        path.write_bytes(b"")
    assert answered(lines, A, 3) == (0, expected(A, 3))
    assert len(tier(lines)) == 0


def test_a_file_under_another_name_is_not_believed(tmp_path: Path) -> None:
    asked(opened(tmp_path), A, 5)
    (path,) = tmp_path.glob("*.kv")
    path.rename(path.with_name(path.name.replace("-45-", "-44-")))
    assert len(tier(opened(tmp_path))) == 0


def test_the_budget_holds_and_takes_the_ends_of_chains_first(tmp_path: Path) -> None:
    lines = opened(tmp_path)
    prompt = A * 5
    for turn in range(6):
        prompt += [*asked(lines, prompt, 6), 50 + turn]
    whole = tier(lines).nbytes
    again = opened(tmp_path, whole - 1)
    assert len(tier(again)) == 5 and tier(again).nbytes < whole
    reused, _ = answered(again, prompt)
    assert 200 < reused < len(prompt) - 1


def test_no_more_is_written_in_an_hour_than_allowed(tmp_path: Path) -> None:
    lines = opened(tmp_path, most_per_hour=1)
    now = [0.0]
    tier(lines).hourly.clock = lambda: now[0]
    for turn in range(4):
        asked(lines, [100 + turn, *A], 3)
    assert len(tier(lines)) == 1
    now[0] = 3601.0
    asked(lines, [110, *A], 3)
    assert len(tier(lines)) == 2


def test_a_full_disk_costs_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = opened(tmp_path)
    said = asked(lines, A, 5)

    def full(self: Path, *arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    more = asked(lines, [*A, *said, 9], 5)
    assert more == expected([*A, *said, 9], 5)
    monkeypatch.undo()
    assert answered(opened(tmp_path), [*A, *said, 9], 2)[0] == 45


PROMPTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(0, 5)), max_size=8)


@settings(max_examples=25)
@given(PROMPTS, st.integers(0, 20_000), st.integers(0, 400), st.data())
def test_any_history_of_restarts_gives_what_a_cold_model_gives(
    tmp_path_factory: pytest.TempPathFactory,
    asked_for: list[tuple[int, int, int]],
    budget: int,
    cut: int,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("tier")
    lines, prompts = opened(folder, budget), [A]
    for new, added, count in asked_for:
        base = data.draw(st.sampled_from(prompts))
        length = data.draw(st.integers(1, len(base)))
        prompt = [*base[:length], *range(50 + new, 50 + new + added)]
        said = asked(lines, prompt, count, length)
        assert said == expected(prompt, count)
        prompts.append([*prompt, *said])
        assert tier(lines).nbytes <= budget
        if data.draw(st.booleans()):
            files = sorted(folder.glob("*.kv"))
            if files and data.draw(st.booleans()):
                damaged = data.draw(st.sampled_from(files))
                damaged.write_bytes(damaged.read_bytes()[:cut])
            lines = opened(folder, budget)
