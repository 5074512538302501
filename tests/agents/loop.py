"""One agent's tool loop against a server that follows a script: two commands at once, one more, and
a last text, in two sessions. `python -m tests.agents.loop NAME PROGRAMS FOLDER` writes
FOLDER/result.json.

It is started where there is no network but a loopback of its own, if the system can do that; what
it starts lives there too. HOME is empty but for what `--print-config` prints.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.agents.known import AGENTS, MODEL, Agent
from tests.agents.loopback import is_alone, raise_loopback
from tests.agents.scripted_server import serving
from tests.agents.turns import Traced, complaints, read_trace

TASKS = (
    "Write one.txt and two.txt with one word each, then join them into both.txt.",
    "Make two files of a word each, and a third of both words.",
)
LAST = "The loop is closed: both.txt says one and two."
TWO = " \"two\" 'ü' 007 \\n $HOME\n\t</think></｜DSML｜parameter>"
"""What servers lose of a command: quotes, control characters, letters that mark calls."""
FINISHES = ("tool_calls", "tool_calls", "stop")
CONTEXT = 131_072
AGENT_S = 300


@dataclass(frozen=True)
class Looped:
    """How one session went; `wrong` is empty where all is as it has to be."""

    traced: Traced
    seconds: float
    wrong: tuple[str, ...]


def script(agent: Agent) -> dict[str, object]:
    """What the model says, each turn with reasoning that ends in a space, as models write it."""
    both = [
        agent.call("printf one > one.txt"),
        agent.call(f"printf %s {shlex.quote(TWO)} > two.txt"),
    ]
    one = [agent.call("cat one.txt two.txt > both.txt && cat both.txt")]
    turns = [
        {"text": "<think>Two files. </think>I write two files.\n\n", "tool_calls": both},
        {"text": "<think>Once more. </think>", "tool_calls": one},
        f"<think>Done. </think>{LAST}",
    ]
    return {"name": MODEL, "context": CONTEXT, "replies": ["Ready."] * agent.canned + turns}


def run(agent: Agent, programs: Path, folder: Path) -> list[Looped]:
    """Two sessions with a task each; between them the server ends and begins anew."""
    (folder / "home").mkdir()
    variables = {
        "HOME": str(folder / "home"),
        "PATH": os.pathsep.join([str(programs), *os.get_exec_path()]),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "NO_COLOR": "1",
        **agent.variables,
    }
    return [_session(agent, task, variables, folder) for task in TASKS]


def _session(agent: Agent, task: str, variables: dict[str, str], folder: Path) -> Looped:
    """Serve, let the agent work in `folder`/work, and look at what became of it."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    (folder / "work").mkdir()
    with serving(script(agent), folder) as server:
        exports = _pasted(agent, server.config(agent.config), folder / "home")
        began = time.monotonic()
        started = shlex.join([agent.program, *agent.arguments, task])
        status = _work(exports + started, variables, folder)
        seconds = time.monotonic() - began
    found = read_trace(folder / "trace.jsonl")
    return Looped(found, seconds, tuple(_wrong(found, status, folder)))


def _pasted(agent: Agent, paste: str, home: Path) -> str:
    """Write the agent's files below `home`; what a shell reads before it starts the agent."""
    for path, text in {**agent.files, **({agent.paste: paste} if agent.paste else {})}.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(text, encoding="utf-8")
    return "" if agent.paste else paste


def _work(command: str, variables: dict[str, str], folder: Path) -> int:
    """Run the agent to its end; its exit status, 124 where it does not end."""
    with open(folder / "said.txt", "wb") as said, open(folder / "errors.txt", "wb") as errors:
        working = subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder / "work",
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return working.wait(AGENT_S)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            # Whatever it started and left.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(working.pid, signal.SIGKILL)
            working.wait()


def _wrong(found: Traced, status: int, folder: Path) -> list[str]:
    wrong = [f"exit status {status}"] if status else []
    both = folder / "work" / "both.txt"
    if not both.exists() or both.read_text("utf-8") != "one" + TWO:
        wrong.append("both.txt was not written, or holds something else")
    if LAST not in (folder / "said.txt").read_text("utf-8", "replace"):
        wrong.append("the last text was not printed")
    wrong += [f"a request ended as {one}" for one in found.refused]
    return wrong + complaints(found.turns, FINISHES)


def main(arguments: list[str]) -> None:
    name, programs, folder = arguments
    agent = next(one for one in AGENTS if one.config == name)
    raise_loopback()
    sessions = run(agent, Path(programs), Path(folder))
    result = {"alone": is_alone(), "sessions": [asdict(one) for one in sessions]}
    (Path(folder) / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
