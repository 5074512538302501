"""The command line: what it means, what it refuses, and what --help says."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from cli.environment import Environment
from cli.models import load_model
from cli.options import Options, parse
from dsv4_mlx.errors import UsageError
from dsv4_mlx.weights.checkpoint import ModelFolder
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


def test_every_option_has_its_place() -> None:
    line = (
        "--model m -p hi --system s --think low --effort-table 2026-07-31 --max-tokens 9 "
        "--temp 0.5 --top-p 0.9 --seed 3 --backend cpu --kv bf16 --json --version "
        "--top-k 40 --min-p 0.05 --repetition-penalty 1.1 --budget 0 --prefill-chunk 64 "
        "--kernels metal,-router --no-compile --draft mtp --draft-max 3 --no-disk"
    )
    assert parse(line.split(), Environment()) == Options(
        Path("m"), "hi", "s", "low", "2026-07-31", 9, 0.5, 0.9, 3, "cpu", "bf16", True, True,
        top_k=40, min_p=0.05, repetition_penalty=1.1, budget=0, prefill_chunk=64,
            kernels="metal,-router", compile=False, draft="mtp", draft_max=3, disk=False,
    )  # fmt: skip
    assert parse([], Environment()) == Options()


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("1.5GiB", 3 << 29)])
def test_memory_for_experts_is_a_size_or_auto(text: str, value: int | str) -> None:
    assert parse(["--expert-memory", text], Environment()) == Options(expert_memory=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["", "--no-compile"])
def test_no_compile_reaches_the_engine(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("dsv4_mlx.loading.load_model", lambda *_, **__: Mock(exact_rows=1))
    monkeypatch.setattr("dsv4_mlx.chat.tokenizer.Tokenizer", lambda _: None)

    def engine(_: object, *, compiled: object, **__: object) -> Mock:
        made.append(compiled)
        return Mock()

    monkeypatch.setattr("dsv4_mlx.engine.engine.Engine", engine)
    load_model(Mock(), parse(line.split(), Environment()))
    assert made == [False if line else None]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--max-tokens 0", "argument --max-tokens: expected a whole number from 1 on, found '0'"),
        ("--max-tokens 1e3", "expected a whole number from 1 on, found '1e3'"),
        ("--draft-max 8", "--draft-max: expected a whole number from 1 to 7, found '8'"),
        ("--expert-memory 9", "expected auto or a size like 20GB or 512MiB, found '9'"),
        ("--draft eagle", "argument --draft: invalid choice: 'eagle'"),
        ("--seed -1", "argument --seed: expected a whole number from 0 on, found '-1'"),
        (f"--seed {2**63}", f"expected a whole number from 0 to {2**63 - 1}, found '{2**63}'"),
        (f"--top-k {'9' * 5000}", f"expected a whole number from 0 to {2**63 - 1}, found '999"),
        ("--temp -0.1", "argument --temp: expected a number from 0 on, found '-0.1'"),
        ("--temp nan", "argument --temp: expected a number from 0 on, found 'nan'"),
        ("--top-p 0", "argument --top-p: expected a number above 0, at most 1, found '0'"),
        ("--top-p 1.5", "argument --top-p: expected a number above 0, at most 1, found '1.5'"),
        ("--top-p 1e-400", "argument --top-p: expected a number above 0, at most 1"),
        ("--top-k -1", "argument --top-k: expected a whole number from 0 on, found '-1'"),
        ("--top-k 1.5", "argument --top-k: expected a whole number from 0 on, found '1.5'"),
        ("--min-p 1.1", "argument --min-p: expected a number from 0 to 1, found '1.1'"),
        ("--repetition-penalty 0", "expected a number above 0, found '0'"),
        ("--repetition-penalty inf", "expected a number above 0, found 'inf'"),
        ("--temp inf", "argument --temp: expected a number from 0 on, found 'inf'"),
        ("--backend tpu", "argument --backend: invalid choice: 'tpu'"),
        ("--sys x", "unrecognized arguments: --sys"),
        ("hello", "expected @FILE, doctor or config, found 'hello'"),
        ("-p \udcff", "-p must be UTF-8 text and has other bytes in it."),
    ],
)
def test_bad_options_are_refused_by_name(line: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(line.split(), Environment())
    assert sentence in str(refusal.value)


def test_usage_errors_exit_with_2() -> None:
    assert run("--temp", "hot") == Run(
        2, "", "dsv4-chat: argument --temp: expected a number from 0 on, found 'hot' "
        "(dsv4-chat --help lists the options).\n"
    )  # fmt: skip


def test_help_is_the_golden_text(golden: Callable[[str, str], None]) -> None:
    done = run("--help")
    golden("help/dsv4-chat.txt", done.stdout)
    assert (done.status, done.stderr) == (0, "")


def test_a_level_that_the_table_lacks_is_refused_with_the_list(folder: Path) -> None:
    assert run("--model", folder, "-p", "x", "--think", "low") == Run(
        2, "", "dsv4-chat: The thinking levels of this checkpoint are none, high, max (effort "
        "table 2026-04), got 'low'; choose one of them.\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("table", "level", "prompt"),
    [
        ("auto", None, "<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜><think>"),
        ("auto", "none", "<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜></think>"),
        ("auto", "max", "<｜begin▁of▁sentence｜>Reasoning Effort: Absolute maximum"),
        ("2026-07-31", None, "<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜><think>"),
        ("2026-07-31", "high", "<｜begin▁of▁sentence｜>Reasoning Effort: Absolute maximum"),
        ("2026-07-31", "max", "<｜begin▁of▁sentence｜>Reasoning Effort: Beyond maximum"),
    ],
)
def test_levels_become_the_prompt_of_their_table(
    folder: Path, table: str, level: str | None, prompt: str
) -> None:
    seen = []

    def open_model(opened: ModelFolder, options: Options):
        engine, tokenizer = opening("a</think>b")(opened, options)
        encode = tokenizer.encode
        tokenizer.encode = lambda prompt: seen.append(str(prompt)) or encode(prompt)
        return engine, tokenizer

    chosen = [] if level is None else ["--think", level]
    done = run(
        "--model", folder, "-p", "x", "--effort-table", table, *chosen, open_model=open_model
    )
    assert done.status == 0
    assert "".join(seen).startswith(prompt)


def test_max_says_what_context_it_asks_for(folder: Path) -> None:
    done = run("--model", folder, "-p", "x", "--think", "max", open_model=opening("a</think>b"))
    assert done == Run(
        0, "b\n", "[thinking level max asks for a context of at least 393,216 tokens; "
        "this checkpoint has 1,048,576]\na\n"
    )  # fmt: skip


def test_max_is_refused_where_the_context_is_too_small(tmp_path: Path) -> None:
    small = write_chat_folder(tmp_path, context=4096)
    assert run("--model", small, "-p", "x", "--think", "max") == Run(
        2, "", "dsv4-chat: Thinking level max asks for a context of at least 393,216 tokens and "
        "this checkpoint has 4,096; choose none, high.\n"
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["-p", " "]])
def test_an_empty_message_is_an_error(arguments: list[str]) -> None:
    assert run(*arguments, piped="\n") == Run(
        1, "", "dsv4-chat: the message is empty: give -p TEXT or text on stdin.\n"
    )


def test_json_at_a_prompt_is_a_usage_error() -> None:
    sentence = "--json needs a message: give -p TEXT or text on stdin."
    event = f'{{"type": "error", "message": "{sentence}"}}\n'
    assert run("--json", typed="hello\n") == Run(2, event, f"dsv4-chat: {sentence}\n")
