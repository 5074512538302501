"""`make agents`: coding agents at their work against `dsv4-chat serve`, and a table of it.

`python -m tests.agents [NAME ...]` runs those of `tests/agents/known.py`, or the named ones. They
come from npm into $DSV4_AGENTS. A run that went wrong leaves its folder, which the table names.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.agents.installed import cache_folder, installed
from tests.agents.known import AGENTS, Agent
from tests.agents.loopback import alone

HEAD = "| agent | version | kept + read, each turn | after a restart | aside | seconds |"


def main(names: list[str]) -> int:
    """Run them, print the table; 1 where one went wrong."""
    known = [agent.config for agent in AGENTS]
    if unknown := [name for name in names if name not in known]:
        print(f"expected names of {', '.join(known)}, found {unknown[0]}.")
        return 2
    if shutil.which("npm") is None:
        print("make agents needs npm, which comes with Node.js 20 or newer.")
        return 2
    rows, wrong = [], []
    for agent in AGENTS:
        if names and agent.config not in names:
            continue
        row, faults = _run(agent)
        rows.append(row)
        wrong += [f"{agent.title}: {fault}" for fault in faults]
    print("\n".join([HEAD, "|---" * 6 + "|", *rows, *wrong]))
    return int(bool(wrong))


def _run(agent: Agent) -> tuple[str, list[str]]:
    """A line of the table, and what went wrong."""
    none = f"| {agent.title} | {agent.version} | | | | |"
    try:
        programs = installed(agent, cache_folder().absolute())
    except RuntimeError as error:
        return none, [str(error)]
    print(f"==> {agent.title} {agent.version} works", flush=True)
    folder = Path(tempfile.mkdtemp(prefix=f"dsv4-agent-{agent.config}-"))
    command = [sys.executable, "-m", "tests.agents.loop", agent.config, str(programs), str(folder)]
    if subprocess.run(alone(command)).returncode:
        return none, [f"no result, look into {folder}"]
    result = json.loads((folder / "result.json").read_text("utf-8"))
    sessions = result["sessions"]
    faults = [
        f"session {number}: {fault}"
        for number, one in enumerate(sessions, 1)
        for fault in one["wrong"]
    ]
    if not result["alone"]:
        print("This system gives no network of its own: the agent could reach the internet.")
    if faults:
        faults.append(f"look into {folder}")
    else:
        shutil.rmtree(folder)
    return _row(agent, sessions), faults


def _row(agent: Agent, sessions: list[dict[str, Any]]) -> str:
    turns = [_turns(one["traced"]["turns"]) for one in sessions]
    aside = " and ".join(str(one["traced"]["aside"]) for one in sessions)
    seconds = " and ".join(f"{one['seconds']:.0f}" for one in sessions)
    return f"| {' | '.join([agent.title, agent.version, *turns, aside, seconds])} |"


def _turns(turns: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['cached']:,} + {one['prompt'] - one['cached']:,}" for one in turns)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
