"""aider and llm against the server, from PyPI, each in an environment of its own."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import extras
from tests.agents.scripted_server import serving
from tests.agents.turns import read_trace

MODEL = "DeepSeek-V4-Flash"
EDIT = "<think>An edit. </think>greeting.txt\n```\nHello, world.\n```\n"
AIDER = """exec aider --message 'Greet the world.' --yes-always --no-git --analytics-disable \\
    --no-check-update --no-show-release-notes --no-show-model-warnings greeting.txt"""
LLM = "llm -m here --key none 'What is 2+2?' && exec llm -c -m here --key none 'And 3+3?'"


def ran(name: str, command: str, folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """What a shell command of program `name` prints, run in `folder` without the internet."""
    if not extras.program(name).exists():
        pytest.skip(f"{name} is not installed")
    (folder / "home").mkdir()
    environment = {
        "HOME": str(folder / "home"),
        "PATH": os.pathsep.join([str(extras.program(name).parent), *os.get_exec_path()]),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        # A proxy that is not there: what is not plain loopback fails at once.
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={**environment, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.needs("aider")
def test_aider_edits_a_file_with_what_is_printed_for_it(tmp_path: Path) -> None:
    greeting = tmp_path / "greeting.txt"
    greeting.write_text("Hello.\n", encoding="utf-8")
    with serving({"name": MODEL, "replies": [EDIT]}, tmp_path) as server:
        said = ran("aider", server.config("aider") + AIDER, tmp_path)
    assert greeting.read_text("utf-8") == "Hello, world.\n"
    assert "An edit." in said and "Applied edit to greeting.txt" in said
    assert [turn.finish for turn in read_trace(tmp_path / "trace.jsonl").turns] == ["stop"]


@pytest.mark.slow
@pytest.mark.needs("llm")
def test_llm_goes_on_with_a_conversation(tmp_path: Path) -> None:
    replies = ["<think>A sum. </think>Four.", "<think>One more. </think>Six."]
    with serving({"name": MODEL, "replies": replies}, tmp_path) as server:
        told = f"- model_id: here\n  model_name: {MODEL}\n  api_base: {server.url}/v1\n"
        (tmp_path / "extra-openai-models.yaml").write_text(told, encoding="utf-8")
        said = ran("llm", LLM, tmp_path, {"LLM_USER_PATH": str(tmp_path)})
    assert said.splitlines() == ["Four.", "Six."]
    first, second = read_trace(tmp_path / "trace.jsonl").turns
    # Without tools V4 drops the reasoning of earlier turns, so their answers are read once more.
    assert second.read <= second.prompt - first.prompt + 1 and second.cached >= first.prompt - 1
