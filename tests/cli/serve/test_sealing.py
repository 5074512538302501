"""Seals open for whom they were made, where they were made, and for nobody else."""

import base64
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.serve.sealing import KEY_FILE, Seals

SEALS = Seals.for_now()


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_sealed_opens_for_its_owner(owner: str, reasoning: str) -> None:
    assert SEALS.opened(owner, SEALS.seal(owner, reasoning)) == reasoning


@given(st.text(), st.text(min_size=1))
def test_it_opens_for_nobody_else(owner: str, suffix: str) -> None:
    assert SEALS.opened(owner + suffix, SEALS.seal(owner, "I think.")) is None
    assert Seals.for_now().opened(owner, SEALS.seal(owner, "I think.")) is None


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_byte_of_it_can_be_changed(place: int, change: int) -> None:
    content = bytearray(base64.b64decode(SEALS.seal("me", "I think.")))
    content[place % len(content)] ^= change
    assert SEALS.opened("me", base64.b64encode(content).decode()) is None


@pytest.mark.parametrize(
    "sealed", [None, 7, "", "AA==", "no base64!", "é", "EqQBCkYIBxgC", "\ud800"]
)
def test_what_others_sealed_says_nothing(sealed: object) -> None:
    assert SEALS.opened("me", sealed) is None


def test_the_key_outlives_the_program_and_is_private(tmp_path: Path) -> None:
    sealed = Seals.kept_in(tmp_path / "serve").seal("me", "I think.")
    assert Seals.kept_in(tmp_path / "serve").opened("me", sealed) == "I think."
    key = tmp_path / "serve" / KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.write_bytes(b"cut")
    assert Seals.kept_in(tmp_path / "serve").opened("me", sealed) is None
    assert len(key.read_bytes()) == 32
