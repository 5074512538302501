"""TF32 is off before MLX is there, unless the person decided; and no other program hears of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_mlx.device import tf32
from dsv4_mlx.device.command_buffers import inherited
from dsv4_mlx.device.tf32 import OFF, VARIABLE, forbid


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf32, "_set", set())


def test_it_is_off_and_nobody_inherits_that() -> None:
    variables = {"KEPT": "yes"}
    forbid(variables)
    forbid(variables)
    assert variables == {"KEPT": "yes", VARIABLE: OFF}
    assert inherited(variables) == {"KEPT": "yes"}


@pytest.mark.parametrize("value", ["0", "1"])
def test_what_the_person_decided_stays_and_is_inherited(value: str) -> None:
    variables = {VARIABLE: value}
    forbid(variables)
    assert variables == {VARIABLE: value} == inherited(variables)


@pytest.mark.parametrize(("given", "seen"), [(None, OFF), ("1", "1")])
def test_it_is_decided_before_mlx_is_loaded(given: str | None, seen: str) -> None:
    code = """
import os, sys
import dsv4_mlx
class Watch:
    def find_spec(self, name, path, target=None):
        if name == "mlx.core":
            print(os.environ.get("MLX_ENABLE_TF32"))
sys.meta_path.insert(1, Watch())
import mlx.core
"""
    variables = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=variables | ({} if given is None else {VARIABLE: given}),
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == [seen]
