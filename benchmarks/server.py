"""What HTTP costs: `dsv4-chat serve` against the engine alone, and mlx-lm's server beside.

    python -m benchmarks.server [--model PATH] [--rounds N] [--tokens N] [--prompt N] [--no-mlx-lm]

Seconds from a server's start until it is ready; seconds to the first token after a prompt of which
nothing was read, and tokens a second after it, greedy, the engine alone and each server in turn and
every other round back, with the same tokens; medians of the rounds. What HTTP adds
to decoding is the median of the rounds in which both said the same, by the wall's clock and, on
Linux, by the seconds of processors that each took, which others on the machine change less. At last
the longest silence of a stream whose prompt is read for half a minute, on a script. Rows go to
results/server.csv.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.record import record
from cli.opened_model import embedded_model

FIELDS = ("what", "who", "value", "unit", "goal")
_ASK = "Say all the words again, one after the other: "
_WORDS = ("cache", "entry", "window", "expert", "router", "token", "layer", "session")
_START_S = 300
_SILENT_SCRIPT = {"replies": ["a"], "chunk": 64, "prefill_ms": 1500}
_SILENT_TOKENS = 1300
_MOST_SILENCE_S = 10
_MOST_COST = 0.03


@dataclass(frozen=True)
class Answered:
    """One reply: seconds to its first token, and of the others; its text and its tokens."""

    first_s: float
    rest_s: float
    tokens: int
    text: str = ""
    cpu_s: float | None = None
    """Of processors, from the first token to the last; None where nobody counts them."""

    @property
    def tokens_per_s(self) -> float:
        """How fast tokens followed the first."""
        return (self.tokens - 1) / self.rest_s if self.rest_s > 0 else 0.0


def question(number: int, tokens: int) -> str:
    """A message of about so many tokens that begins as no other does."""
    words = [_WORDS[(number + place) % len(_WORDS)] for place in range(tokens // 2)]
    return f"{number}. {_ASK}{' '.join(words)}"


class Alone:
    """The engine without a server, as a request of a server is served."""

    def __init__(self, folder: Path) -> None:
        from cli.models import load_model
        from cli.options import Options
        from dsv4_mlx.chat.prompting import PromptWriter
        from dsv4_mlx.weights.checkpoint import open_folder

        self._engine, self._tokenizer = load_model(open_folder(folder), Options(), draft="off")
        self._engine.drafting.use("off", None)
        self._writer = PromptWriter(self._tokenizer, "2026-07-31")

    def answer(self, text: str, tokens: int) -> Answered:
        """The greedy answer to `text`, without reasoning."""
        from dsv4_mlx.chat.answer_settings import AnswerSettings
        from dsv4_mlx.chat.settings import Thinking
        from dsv4_mlx.chat.turns import Turn

        settings = AnswerSettings(Thinking("chat"))
        asked_at = time.perf_counter()
        prompt = self._writer.write([Turn.asking(text)], settings)
        session = self._engine.session()
        session.sync(prompt.tokens)
        said: list[int] = []
        times: list[float] = []
        used: list[float] = []
        for token in session.stream(tokens, temperature=0.0):
            times.append(time.perf_counter())
            used.append(time.process_time())
            said.append(token.id)
        spelled = self._tokenizer.decode([t for t in said if t != self._tokenizer.eos_id])
        rest_s, cpu_s = times[-1] - times[0], used[-1] - used[0]
        return Answered(times[0] - asked_at, rest_s, len(said), spelled, cpu_s)


class Server:
    """A running server, asked by chat completions."""

    def __init__(self, port: int, model: str, process: int | None = None) -> None:
        self._port, self._model, self._process = port, model, process

    def answer(self, text: str, tokens: int) -> Answered:
        """The same answer over HTTP."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "reasoning_effort": "none",
        }
        asked_at = time.perf_counter()
        said: list[str] = []
        times: list[float] = []
        used: list[float | None] = []
        usage: dict[str, Any] = {}
        for at, line in streamed(self._port, body):
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if piece := choice["delta"].get("content"):
                    said.append(piece)
                    times.append(at)
                    used.append(cpu_seconds(self._process))
        first, last = used[0], used[-1]
        return Answered(
            times[0] - asked_at,
            times[-1] - times[0],
            usage["completion_tokens"],
            "".join(said),
            None if first is None or last is None else last - first,
        )


def streamed(port: int, body: dict[str, Any]) -> Iterator[tuple[float, bytes]]:
    """The lines of the answer to `body`, each with when it came."""
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"the server refused: {response.read().decode()}")
    while line := response.readline():
        yield time.perf_counter(), line
    connection.close()


def cpu_seconds(process: int | None) -> float | None:
    """Seconds of processors that a process took so far; None where Linux does not tell."""
    stat = Path(f"/proc/{process}/stat")
    if process is None or not stat.exists():
        return None
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Started:
    """A server that is ready: seconds that took, and its process."""

    seconds: float
    process: int


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[Started]:
    """The server of `command` once it says that it is ready; it ends afterwards."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        program = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | {"DSV4_HOME": home},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not _is_ready(port):
                if program.poll() is not None or time.perf_counter() - started > _START_S:
                    raise SystemExit(f"{' '.join(command)} does not start")
                time.sleep(0.02)
            yield Started(time.perf_counter() - started, program.pid)
        finally:
            program.terminate()
            program.wait()


def _is_ready(port: int) -> bool:
    with suppress(OSError):
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def silence(port: int) -> float:
    """The longest time in which a script's server says nothing while it reads for long."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.json"
        script.write_text(json.dumps(_SILENT_SCRIPT), encoding="utf-8")
        command = ["-m", "cli", "serve", "--engine", f"fake:{script}", "--port", str(port)]
        with running(command, port):
            message = {"role": "user", "content": question(0, _SILENT_TOKENS)}
            body = {"model": "scripted", "messages": [message], "stream": True}
            times = [time.perf_counter(), *(at for at, _ in streamed(port, body))]
    return max(later - before for before, later in pairwise(times))


def compared(
    alone: Alone, servers: dict[str, Server], rounds: int, prompt: int, tokens: int
) -> dict[str, list[Answered]]:
    """Answers of each, in turn, to a question that none has read, after a round to warm up."""
    found: dict[str, list[Answered]] = {name: [] for name in ("engine", *servers)}
    askers: list[tuple[str, Alone | Server]] = [("engine", alone), *servers.items()]
    for number in range(rounds + 1):
        text = question(number, prompt)
        for name, asker in askers if number % 2 else askers[::-1]:
            found[name].append(asker.answer(text, tokens))
    return {name: answers[1:] for name, answers in found.items()}


def rows_of(found: dict[str, list[Answered]], starts: dict[str, float]) -> list[dict[str, Any]]:
    """What was measured, as rows."""
    rows = [row("start to ready", name, seconds, "s") for name, seconds in starts.items()]
    for name, answers in found.items():
        rows.append(row("first token", name, _median([one.first_s for one in answers]), "s"))
    for name, answers in found.items():
        speed = _median([one.tokens_per_s for one in answers])
        rows.append(row("decode", name, speed, "tok/s"))
    pairs = zip(found["engine"], found["dsv4-chat serve"], strict=True)
    same = [(one, other) for one, other in pairs if one.text == other.text]
    goal = 100 * _MOST_COST
    costs = [1 - other.tokens_per_s / one.tokens_per_s for one, other in same]
    if costs:
        rows.append(row("added to decode", "dsv4-chat serve", 100 * _median(costs), "%", goal))
    used = [(one.cpu_s, other.cpu_s) for one, other in same if one.cpu_s and other.cpu_s]
    if used:
        added = sum(other for _, other in used) / sum(one for one, _ in used) - 1
        rows.append(row("added, processors", "dsv4-chat serve", 100 * added, "%", goal))
    if len(same) < len(found["engine"]):
        print(f"{len(found['engine']) - len(same)} rounds with other texts are in no comparison")
    return rows


def row(what: str, who: str, value: float, unit: str, goal: float | str = "") -> dict[str, Any]:
    """One line of the table."""
    return {"what": what, "who": who, "value": f"{value:.3f}", "unit": unit, "goal": goal}


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, metavar="PATH", help="default: the embedded model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128, help="longest reply")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a question, about")
    parser.add_argument("--port", type=int, default=8790)
    parser.add_argument("--no-mlx-lm", dest="mlx_lm", action="store_false")
    options = parser.parse_args()
    folder, port = (options.model or embedded_model()).resolve(), options.port
    own = ["-m", "cli", "serve", "--model", str(folder), "--port", str(port), "--draft", "off"]
    others = ["-m", "dsv4_mlx.mlx_lm", "server", "--model", str(folder), "--port", str(port + 1)]
    programs = {"dsv4-chat serve": ([*own, "--alias", folder.name], port, folder.name)}
    if options.mlx_lm:
        programs["mlx-lm's server"] = (others, port + 1, "default_model")
    starts: dict[str, float] = {}
    servers: dict[str, Server] = {}
    with ExitStack() as stack:
        for name, (command, at, model) in programs.items():
            started = stack.enter_context(running(command, at))
            starts[name], servers[name] = started.seconds, Server(at, model, started.process)
        alone = Alone(folder)
        found = compared(alone, servers, options.rounds, options.prompt, options.tokens)
    rows = rows_of(found, starts)
    rows.append(row("silence", "dsv4-chat serve", silence(port), "s", _MOST_SILENCE_S))
    for one in rows:
        goal = f"  at most {one['goal']}" if one["goal"] else ""
        print(f"{one['what']:17} {one['who']:16} {one['value']:>10} {one['unit']}{goal}")
    asked = f"--rounds {options.rounds} --tokens {options.tokens} --prompt {options.prompt}"
    record("server", f"python -m benchmarks.server {asked}", rows, FIELDS)


if __name__ == "__main__":
    main()
