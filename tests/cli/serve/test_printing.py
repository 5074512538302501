"""What `dsv4-chat serve` prints instead of serving."""

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from cli.machine import machine
from cli.machine.machine import read_machine
from dsv4_mlx.forming import SHORT_CONTEXT, prepare
from dsv4_mlx.scripted.engine import NANO
from dsv4_mlx.weights.checkpoint import open_folder
from tests.cli.running import run
from tests.cli.scripted import write_chat_folder
from tests.terminal.ranks import hostfile


def test_a_config_has_the_models_name_its_context_and_the_key(tmp_path: Path) -> None:
    folder, keys = tmp_path / "V4-mine", tmp_path / "keys"
    folder.mkdir()
    write_chat_folder(folder, context=4096)
    keys.write_text("# people\n\nfirst-key\nsecond-key\n")
    ran = run(
        "serve", "--model", folder, "--port", "81", "--api-key-file", keys, "--print-config", "pi"
    )
    provider = json.loads(ran.stdout)["providers"]["dsv4"]
    assert ran.status == 0 and provider["baseUrl"] == "http://127.0.0.1:81/v1"
    assert provider["apiKey"] == "first-key" and provider["models"][0]["id"] == "V4-mine"
    assert f"the first of 2 in {keys}" in ran.stderr


def test_a_script_has_a_name_and_a_context_as_well(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"replies": ["a"], "name": "told", "context": 8192}')
    ran = run("serve", "--engine", f"fake:{script}", "--print-config", "codex")
    config = tomllib.loads(ran.stdout)
    assert (config["model"], config["model_context_window"]) == ("told", 8192)


def context_of_two(folder: Path, monkeypatch: pytest.MonkeyPatch, spare: int) -> tuple[int, str]:
    """What opencode is told of a pair, and stderr, where this machine has `spare` bytes more than
    its half of the small model and a short context need."""
    mine = prepare(NANO, 0, "cpu", "compact").beside((0, 5))
    memory = mine.facts("", "", "", None).needed + spare
    known = replace(read_machine(), system="Linux", memory=memory, container=None)
    monkeypatch.setattr(machine, "read_machine", lambda: known)
    ran = run("serve", "--hosts", hostfile(folder), "--backend", "cpu", "--print-config", "pi")
    (model,) = json.loads(ran.stdout)["providers"]["dsv4"]["models"]
    return int(model["contextWindow"]), ran.stderr


def test_a_pair_is_told_with_the_context_that_this_machine_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = open_folder(NANO).described.max_position_embeddings
    little, told = context_of_two(tmp_path, monkeypatch, 1 << 24)
    more, _ = context_of_two(tmp_path, monkeypatch, 1 << 25)
    assert SHORT_CONTEXT < little < more < longest and "where the other allows less" in told
    assert context_of_two(tmp_path, monkeypatch, 1 << 30)[0] == longest


def test_the_key_of_the_environment_is_the_one_in_use() -> None:
    ran = run("serve", "--print-config", "claude", variables={"DSV4_API_KEY": "from-there"})
    assert "export ANTHROPIC_AUTH_TOKEN=from-there\n" in ran.stdout
    assert "the first of" not in ran.stderr


def test_a_unit_starts_the_command_line_that_printed_it(tmp_path: Path) -> None:
    ran = run("serve", "--port", "81", "--trace", "t.jsonl", "--print-service", "systemd")
    assert ran.status == 0
    assert f'"serve" "--port" "81" "--trace" "{os.getcwd()}/t.jsonl"\n' in ran.stdout
    assert f'"DSV4_HOME={os.environ["DSV4_HOME"]}"' in ran.stdout


@pytest.mark.parametrize("option", ["--print-config", "--print-service"])
def test_there_are_only_those(option: str) -> None:
    ran = run("serve", option, "emacs")
    assert ran.status == 2 and "emacs" in ran.stderr


def test_a_key_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    ran = run("serve", "--api-key-file", tmp_path / "none", "--print-config", "pi")
    assert ran.status == 2 and "No such file" in ran.stderr
