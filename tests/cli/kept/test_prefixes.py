"""Stored prefixes: the longest one is found, and the folder keeps to its budget."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cli.kept.prefixes import MINIMUM_TOKENS, PrefixStore

TOKENS = list(range(10_000))


def store(folder: Path, budget_bytes: int = 1 << 20, model: str = "model") -> PrefixStore:
    return PrefixStore(folder / "prefixes", budget_bytes, model)


def put(prefixes: PrefixStore, tokens: list[int], size: int = 10) -> Path:
    """Store `tokens`, which may be stored already."""
    path = prefixes.keep(tokens) or prefixes.find(tokens)
    assert path is not None
    path.write_bytes(b"x" * size)
    return path


def test_the_longest_stored_prefix_is_found(tmp_path: Path) -> None:
    prefixes = store(tmp_path)
    paths = {length: put(prefixes, TOKENS[:length]) for length in (600, 1000, 3000)}
    put(prefixes, [7, *TOKENS[:1999]])
    assert prefixes.find(TOKENS[:2999]) == paths[1000]
    assert prefixes.find(TOKENS[:3000]) == paths[3000]
    assert prefixes.find(TOKENS[:599]) is None


@given(st.lists(st.integers(512, 900), max_size=6), st.integers(0, 1000), st.integers(0, 1000))
def test_what_is_found_is_the_longest_prefix_there_is(
    tmp_path_factory, lengths: list[int], common: int, more: int
) -> None:
    prefixes = store(tmp_path_factory.mktemp("prefixes"))
    paths = {length: put(prefixes, TOKENS[:length]) for length in lengths}
    longest = max((length for length in lengths if length <= common), default=None)
    prompt = TOKENS[:common] + [9_999] * more
    assert prefixes.find(prompt) == (None if longest is None else paths[longest])


def test_another_model_finds_nothing(tmp_path: Path) -> None:
    put(store(tmp_path, model="a"), TOKENS)
    assert store(tmp_path, model="b").find(TOKENS) is None


def test_a_new_program_finds_what_an_earlier_one_kept(tmp_path: Path) -> None:
    path = put(store(tmp_path), TOKENS)
    assert store(tmp_path).find(TOKENS) == path


def test_what_is_stored_needs_no_second_file(tmp_path: Path) -> None:
    put(store(tmp_path), TOKENS)
    assert store(tmp_path).keep(TOKENS) is None


def test_short_prefixes_are_not_worth_a_file(tmp_path: Path) -> None:
    assert store(tmp_path).keep(TOKENS[: MINIMUM_TOKENS - 1]) is None
    assert store(tmp_path).keep(TOKENS[:MINIMUM_TOKENS]) is not None


def test_what_is_no_token_has_no_prefix(tmp_path: Path) -> None:
    put(store(tmp_path), TOKENS)
    assert store(tmp_path).find([-1, *TOKENS]) is None
    assert store(tmp_path).find([10**100, *TOKENS]) is None


def test_without_a_budget_nothing_is_kept(tmp_path: Path) -> None:
    assert store(tmp_path, budget_bytes=0).keep(TOKENS) is None
    assert list(tmp_path.iterdir()) == []


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    prefixes = store(tmp_path, budget_bytes=25)
    paths = [put(prefixes, TOKENS[:length]) for length in (600, 700, 800)]
    for number, path in enumerate(paths):
        os.utime(path, ns=(0, number))
    assert prefixes.find(TOKENS[:600]) == paths[0]  # used just now
    prefixes.shrink()
    assert [path.exists() for path in paths] == [True, False, True]


def test_the_folder_is_for_its_owner(tmp_path: Path) -> None:
    path = put(store(tmp_path), TOKENS)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    prefixes = store(tmp_path)
    path = put(prefixes, TOKENS)
    for name in ("notes.txt", f"{path.name}.old", f"{path.name[:17]}x-y.kv"):
        (path.parent / name).touch()
    assert prefixes.find(TOKENS) == path
