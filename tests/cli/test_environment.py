"""The world around a run: what of it other programs get."""

import os
import subprocess
import sys

import pytest

from cli.environment import own_variables

READS = """
import os, sys
from cli.app import main
from cli.tools.shell import run
from pathlib import Path
main(["config", "--path"])
sys.stdout.write(run("env", Path("/")).text)
"""


def test_the_key_is_for_this_program_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSV4_API_KEY", "s3cret")
    assert own_variables()["DSV4_API_KEY"] == "s3cret"
    assert "DSV4_API_KEY" not in os.environ


def test_a_command_of_the_model_gets_no_key() -> None:
    environment = {**os.environ, "DSV4_API_KEY": "s3cret", "OTHER": "there"}
    ran = subprocess.run(
        [sys.executable, "-c", READS], env=environment, capture_output=True, text=True, timeout=120
    )
    assert "OTHER=there" in ran.stdout, ran.stderr
    assert "s3cret" not in ran.stdout
