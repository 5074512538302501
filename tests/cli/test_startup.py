"""What the command imports before it can answer; seconds are counted in benchmarks/startup.py."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.cli.scripted import write_chat_folder

HEAVY = {"mlx_lm", "transformers", "torch", "rich", "prompt_toolkit", "huggingface_hub", "asyncio"}
# What --version and --help can do without as well.
MODEL_SIDE = {"tokenizers", "dsv4_mlx.model.v4", "dsv4_mlx.loading", "dsv4_mlx.engine.engine"}


def imports_of(*arguments: str | Path, piped: str = "") -> tuple[set[str], str]:
    """All modules that `dsv4-chat arguments` imported, and its stdout."""
    code = (
        "import sys; from cli.app import main; status = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        input=piped, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split()), done.stdout


def test_help_imports_no_mlx() -> None:
    modules, _ = imports_of("--help")
    assert modules.isdisjoint(HEAVY | MODEL_SIDE | {"mlx", "numpy"})


def test_version_imports_neither_the_model_nor_anything_heavy() -> None:
    modules, shown = imports_of("--version")
    assert modules.isdisjoint(HEAVY | MODEL_SIDE)
    assert [line.split()[0] for line in shown.splitlines()] == [
        "dsv4-mlx", "mlx", "backend", "kernels", "kernels", "blas",
    ]  # fmt: skip


def test_an_answer_needs_nothing_heavy(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    modules, _ = imports_of("--model", tmp_path, "-p", "Hi", "--max-tokens", "2")
    assert "dsv4_mlx.model.v4" in modules
    assert modules.isdisjoint(HEAVY)


def test_the_program_starts_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "--model", write_chat_folder(tmp_path), "--think", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dsv4-chat: argument --think: invalid choice: 'x'")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_closed_stream_is_no_traceback(tmp_path: Path, closed: str) -> None:
    folder = write_chat_folder(tmp_path)
    command = f'"{sys.executable}" -m cli --model "{folder}" -p x --think low {closed}'
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_ctrl_c_does_not_wait_for_the_model_to_load(tmp_path: Path) -> None:
    code = (
        "import sys, time; from cli.app import main\n"
        "def open_model(folder, backend): print('loading', flush=True); time.sleep(200)\n"
        "sys.exit(main(sys.argv[1:], open_model=open_model))"
    )
    command = [sys.executable, "-c", code, "--model", write_chat_folder(tmp_path), "-p", "x"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"loading\n"
        program.send_signal(signal.SIGINT)
        shown = program.communicate(timeout=100)
    assert (program.returncode, *shown) == (130, b"", b"")


def test_an_open_pipe_on_stdin_is_waited_for_and_told(tmp_path: Path) -> None:
    folder = write_chat_folder(tmp_path)
    command = [sys.executable, "-m", "cli", "--model", folder, "-p", "x", "--think", "low"]
    told = b"[waiting for the end of stdin; </dev/null gives none]\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stderr is not None
        assert program.stderr.readline() == told
        program.stdin.close()
        assert program.stderr.read().startswith(b"dsv4-chat: The thinking levels of this")
    assert program.returncode == 2


def test_json_version_is_one_object() -> None:
    _, shown = imports_of("--version", "--json")
    facts = json.loads(shown)
    assert set(facts) == {"version", "mlx", "backend", "kernels", "left_out", "compiled", "blas"}
    assert facts["left_out"] == []
    assert set(facts["kernels"].values()) <= {"metal", "cuda", "reference", "mlx"}
