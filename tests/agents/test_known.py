"""Agents are run as `--print-config` says, which is checked without running them."""

import json
from pathlib import Path

import pytest

from cli.serve.client_configs import CLIENTS, ServerAddress, client_config
from dsv4_mlx.scripted.script import read_script
from tests.agents.known import AGENTS, MODEL, Agent
from tests.agents.loop import LAST, script

BY_NAME = pytest.mark.parametrize("agent", AGENTS, ids=[agent.config for agent in AGENTS])


@BY_NAME
def test_what_is_printed_goes_where_its_note_says(agent: Agent) -> None:
    note = client_config(agent.config, ServerAddress("127.0.0.1", 1, MODEL)).notes[0]
    where = f"Write into ~/{agent.paste}" if agent.paste else "Paste into the shell"
    assert agent.config in CLIENTS and note.startswith(where)
    words = note.partition("then start: ")[2].split()
    started = [agent.program, *agent.arguments]
    assert words and set(words) <= set(started)


@BY_NAME
def test_the_script_is_one(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script(agent)))
    replies = read_script(path).replies[agent.canned :]
    assert [len(turn[0].tool_calls) for turn in replies] == [2, 1, 0]
    assert replies[-1][0].answer == LAST
