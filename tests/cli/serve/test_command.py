"""`dsv4-chat serve` as far as its command line: options, extras, keys."""

import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.config import Config
from cli.environment import Environment
from cli.serve.making import ServiceMaker
from cli.serve.options import parse_serve
from cli.serve.trace import Trace, traced_requests
from dsv4_mlx.errors import UsageError
from tests.cli.running import run


def parsed(*arguments: str) -> Any:
    return parse_serve(list(arguments), Environment())


def test_what_concerns_the_model_is_as_in_the_chat() -> None:
    given = parsed("--temp", "0", "--think", "low", "--stop", "a\\n", "--max-tokens", "9")
    options = given.options
    assert (options.temperature, options.think, options.max_tokens) == (0, "low", 9)
    assert options.stop == ("a\n",) and options.keep
    assert given.host == "127.0.0.1" and given.cache_budget is None
    assert parsed("--cache-budget", "auto").cache_budget is None


def test_what_concerns_the_server() -> None:
    given = parsed(
        *("--alias", "claude-x", "--alias", "gpt-y", "--allow-host", "box", "--port", "0"),
        *("--cache-budget", "2GB", "--idle-unload", "10", "--warm", "a", "--max-waiting", "3"),
        *("--no-save", "--allow-origin", "https://a.example"),
    )
    assert given.aliases == ("claude-x", "gpt-y") and given.allowed_hosts == ("box",)
    assert (given.cache_budget, given.idle_unload, given.max_waiting) == (2 * 10**9, 10, 3)
    assert given.warm == (Path("a"),) and not given.options.keep
    assert given.allowed_origins == ("https://a.example",)


def test_two_machines_are_as_in_the_chat_but_for_the_name_of_their_port() -> None:
    line = "--hosts h.json --hosts-port 4000 --peer-timeout 9 --allow-sleep --port 0"
    given = parsed(*line.split())
    options = given.options
    assert (options.hosts, options.port, options.peer_timeout) == (Path("h.json"), 4000, 9)
    assert options.allow_sleep and given.allow_sleep and given.port == 0
    assert not parsed("--allow-sleep").options.allow_sleep


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--hosts-port 4000", "--hosts-port is for two Macs, see --hosts; leave it out."),
        ("--peer-timeout 9", "--peer-timeout is for two Macs, see --hosts; leave it out."),
        ("--hosts h.json --draft lookup", "--draft lookup is for one machine"),
        ("--hosts h.json --draft-max 3", "--draft-max is for one machine"),
        ("--hosts h.json --expert-memory 9GiB", "--expert-memory is for one machine"),
        ("--hosts h.json --expert-trace t.csv", "--expert-trace is for one machine"),
    ],
)
def test_what_two_machines_or_one_cannot_follow_is_refused(line: str, sentence: str) -> None:
    done = run("serve", *line.split())
    assert done.status == 2 and sentence in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--port", "99999"], ["--cache-budget", "much"], ["--alias", ""], ["-p", "x"], ["x"]],
)
def test_other_options_are_sentences(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parsed(*arguments)


def test_help_lists_the_options_and_needs_no_server() -> None:
    done = run("serve", "--help")
    assert done.status == 0
    for option in ("--api-key-file", "--alias", "--warm", "--temp", "--model", "--engine"):
        assert option in done.stdout
    code = (
        "import sys; from cli.app import main; main(['serve', '--help']); "
        "print(*sys.modules, file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"starlette", "uvicorn", "asyncio", "mlx"}.isdisjoint(found.stderr.split())


def test_without_its_packages_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else there(name)
    )
    done = run("serve")
    assert done.status == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "pip install 'dsv4-mlx[serve]'" in done.stderr


def test_another_host_without_a_key_is_refused_before_anything_loads() -> None:
    done = run("serve", "--host", "0.0.0.0", "--port", "0")
    assert done.status == 2 and "takes a key" in done.stderr


def test_a_trace_is_its_owners_alone_and_gives_requests_back(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.touch()
    path.chmod(0o644)
    for number in range(2):
        trace = Trace(path)
        trace.request(number, "/v1/x", {"text": "ä\u2028"})
        trace.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(traced_requests(path)) == [("/v1/x", {"text": "ä\u2028"})] * 2


def test_a_file_that_is_no_trace_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with pytest.raises(UsageError, match="--warm"):
        list(traced_requests(path))
    path.write_text("no trace\n", encoding="utf-8")
    with pytest.raises(UsageError, match="--trace wrote"):
        list(traced_requests(path))
    with pytest.raises(UsageError, match="--trace"):
        Trace(tmp_path)


def test_two_servers_do_not_write_into_one_folder(tmp_path: Path) -> None:
    noted = io.StringIO()
    environment = Environment(stderr=noted, variables={"DSV4_HOME": str(tmp_path)})
    first, second = (ServiceMaker(parsed(), environment, Config()) for _ in range(2))
    assert first.folder == tmp_path / "served" == first.folder
    assert second.folder is None and "another server keeps" in noted.getvalue()
    assert ServiceMaker(parsed("--no-save"), environment, Config()).folder is None


def test_a_trace_that_takes_no_more_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, notes = tmp_path / "trace", list[str]()
    trace = Trace(path, notes.append)
    trace.request(1, "/v1/x", {"text": "whole"})

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 5:
            return write(descriptor, content[:5])
        raise OSError(28, "No space left on device")

    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        trace.request(2, "/v1/x", {"text": "torn"})
    trace.request(3, "/v1/x", {"text": "late"})
    trace.close()
    assert notes == [f"--trace {path}: No space left on device; nothing more is written to it"]
    assert list(traced_requests(path)) == [("/v1/x", {"text": "whole"})]
