"""Every option of the command line where two machines share a model: kept, passed on or refused."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from cli.completed_options import completed
from cli.config import Config
from cli.environment import Environment
from cli.options import Options, parse
from cli.preferences import Preferences
from cli.ranks.fitting import configured_notes
from cli.ranks.run import ranks_of
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import UsageError
from dsv4_mlx.pipeline.piped import PipelineModel
from tests.cli.ranks.started import script
from tests.cli.running import Run, run
from tests.terminal.ranks import hostfile, hosts_options


@dataclass(frozen=True)
class Sent:
    """An option that rank 0 or both get with their work."""

    line: str
    attribute: str
    value: object


@dataclass(frozen=True)
class Asked:
    """An option that goes with every answer that the terminal asks rank 0 for."""

    line: str


@dataclass(frozen=True)
class Kept:
    """An option that the terminal follows itself, whichever process runs the model."""

    line: str


@dataclass(frozen=True)
class Refused:
    """An option that two machines cannot follow."""

    line: str
    sentence: str = "is for one machine, and two share this model; leave it out."


@dataclass(frozen=True)
class Anyway:
    """An option that asks for what two machines do without it."""

    line: str


WAYS: dict[str, Sent | Asked | Kept | Refused | Anyway] = {
    "model": Kept("--model m"),  # the folder is sent once it is opened: test_starting.py
    "prompt": Kept("-p hello"),
    "system": Asked("--system s"),
    "think": Asked("--think none"),
    "effort_table": Kept("--effort-table 2026-04"),  # sent as `RankPair.open` has it
    "max_tokens": Asked("--max-tokens 9"),
    "temperature": Asked("--temp 0.3"),
    "top_p": Asked("--top-p 0.3"),
    "seed": Asked("--seed 3"),
    "backend": Sent("--backend cpu", "backend", "cpu"),
    "kernels": Sent("--kernels=cpu,-router", "backend", "cpu,-router"),
    "kv": Sent("--kv bf16", "kv", "bf16"),
    "json": Kept("--json"),
    "version": Kept("--version"),
    "resume": Kept("--resume"),
    "keep": Sent("--no-save", "prefix_bytes", 0),
    "budget": Asked("--budget 5"),
    "tools": Kept("--tools"),
    "engine": Sent("--engine fake:s.json", "engine", "fake:s.json"),
    "server": Refused("--server http://127.0.0.1:1"),
    "stream": Kept("--no-stream"),
    "raw": Kept("--raw"),
    "plain": Kept("--plain"),
    "theme": Kept("--theme dark"),
    "reasoning": Kept("--reasoning hide"),
    "path": Kept("--path"),  # of config, which starts no rank
    "top_k": Asked("--top-k 3"),
    "min_p": Asked("--min-p 0.3"),
    "repetition_penalty": Asked("--repetition-penalty 1.3"),
    "stop": Asked("--stop never"),
    "loop": Asked("--loop stop"),
    "prefill_chunk": Sent("--prefill-chunk 64", "prefill_chunk", 64),
    "compile": Anyway("--no-compile"),
    "draft": Refused("--draft lookup"),
    "draft_max": Refused("--draft-max 3"),
    "expert_memory": Refused("--expert-memory 9GiB"),
    "expert_trace": Refused("--expert-trace t.csv"),
    "disk": Refused("doctor --disk", "doctor looks at one Mac; leave --hosts out and run it on"),
    "hosts": Kept(""),
    "port": Sent("--port 4000", "ring", (("127.0.0.1:4000",), ("127.0.0.1:4001",))),
    "peer_timeout": Sent("--peer-timeout 7", "limit_s", 7.0),
    "allow_sleep": Sent("--allow-sleep", "allow_sleep", True),
    "words": Kept("@file"),
}


def of(kind: type) -> list[tuple[str, Any]]:
    return [(name, way) for name, way in WAYS.items() if isinstance(way, kind)]


def parsed(line: str) -> Options:
    return parse(line.split(), Environment())


def test_every_option_has_a_way() -> None:
    assert {field.name for field in fields(Options)} == {*WAYS}
    given = {name: getattr(parsed(way.line), name) for name, way in WAYS.items()}
    same = {name for name, value in given.items() if value == getattr(Options(), name)}
    assert same == {"hosts"}  # which all of this is about


@pytest.mark.parametrize(("name", "way"), of(Sent))
def test_what_is_sent_is_in_the_work_of_the_ranks(tmp_path: Path, name: str, way: Sent) -> None:
    variables = {"DSV4_HOME": str(tmp_path)}
    plain, changed = (
        work_in(f"--hosts {hostfile(tmp_path)} {line}", variables) for line in ("", way.line)
    )
    assert getattr(changed, way.attribute) == way.value != getattr(plain, way.attribute)


def work_in(line: str, variables: dict[str, str]) -> Any:
    """What rank 0 would be told."""
    options = completed(parsed(line), Config())
    with ranks_of(options, Environment(variables=variables), Config()) as ranks:
        assert ranks.pair is not None
        return ranks.pair._work


@pytest.mark.parametrize(("name", "way"), of(Asked))
def test_what_is_asked_is_in_the_settings_of_an_answer(name: str, way: Asked) -> None:
    checkpoint, preferences = ChatSettings("2026-04", 4096), Preferences()
    plain, changed = (
        preferences.given(parsed(line)).answer_settings(checkpoint) for line in ("", way.line)
    )
    assert changed != plain


@pytest.mark.parametrize(("name", "way"), of(Refused))
def test_what_two_machines_cannot_do_is_refused(tmp_path: Path, name: str, way: Refused) -> None:
    found = run("--hosts", hostfile(tmp_path), *way.line.split(), "-p", "hello")
    assert found.status == 2 and way.sentence in found.stderr


def test_two_machines_build_every_graph_anew_as_no_compile_asks() -> None:
    class Piped:
        config = None
        weights_elsewhere = PipelineModel.weights_elsewhere

    with pytest.raises(UsageError, match="not all in memory"):
        Engine(Piped(), prefill_chunk=64, compiled=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["--port 4000", "--peer-timeout 9", "--allow-sleep"])
@pytest.mark.parametrize("command", ["-p hello", "doctor"])
def test_what_is_for_two_machines_is_refused_for_one(line: str, command: str) -> None:
    found = run(*command.split(), *line.split())
    name = line.split()[0]
    assert (found.status, found.stderr) == (
        2,
        f"dsv4-chat: {name} is for two Macs, see --hosts; leave it out.\n",
    )


def test_settings_of_the_file_that_do_not_hold_are_told() -> None:
    assert configured_notes(Config()) == configured_notes(Config(draft="off")) == []
    assert configured_notes(Config(draft="mtp", draft_max=3, expert_memory=9 << 30)) == [
        "expert_memory, draft, draft_max of the configuration file: for one machine alone, "
        "passed over"
    ]


def test_variables_of_this_program_hold_on_both_machines(tmp_path: Path) -> None:
    given = {"DSV4_BACKEND": "cpu", "DSV4_KERNELS": "cpu,-router", "DSV4_HOME": str(tmp_path)}
    work = work_in(f"--hosts {hostfile(tmp_path)}", given)
    assert work.variables == {"DSV4_BACKEND": "cpu", "DSV4_KERNELS": "cpu,-router"}


ANSWER = {"text": "Hm.</think>**One** and *two*, then STOP and more."}


def over_one_and_two(home: Path, *options: str, **keys: Any) -> tuple[Run, Run]:
    """The same command line with a script in this process, and over two ranks."""
    engine = ["--engine", script(home, ANSWER, "Again.")]
    one, two = ({"DSV4_HOME": str(home / name)} for name in ("one", "two"))
    alone = run(*engine, *options, variables=one, **keys)
    both = run(*hosts_options(home), *engine, *options, variables=two, **keys)
    return alone, both


def told(text: str) -> list[dict[str, Any]]:
    """JSON events but for what time it took, and for what only two ranks tell."""
    records = [json.loads(line) for line in text.splitlines()]
    return [
        {name: value for name, value in record.items() if name not in ("timing", "pipeline")}
        for record in records
    ]


def test_what_the_terminal_keeps_holds_over_two_ranks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of a file")
    line = f"-p hello @{tmp_path}/file --raw --plain --no-stream --reasoning show --theme dark"
    alone, both = over_one_and_two(tmp_path, *line.split(), "--stop", "STOP", "--tools")
    assert (both.status, both.stdout) == (0, alone.stdout)
    assert alone.stdout == "**One** and *two*, then "


@pytest.mark.slow
def test_events_and_resumed_conversations_hold_over_two_ranks(tmp_path: Path) -> None:
    events = over_one_and_two(tmp_path, "-p", "hello", "--json", "--effort-table", "2026-07-31")
    assert told(events[1].stdout) == told(events[0].stdout) != []
    typed = "hello\n/context\n/quit\n"
    alone, both = over_one_and_two(tmp_path, "--plain", typed=typed)
    assert alone.stdout == both.stdout
    again = over_one_and_two(tmp_path, "--resume", "--plain", typed="on\n/context\n/quit\n")
    assert again[0].stdout == again[1].stdout
