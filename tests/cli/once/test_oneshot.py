"""One message, one answer: everything on stdout and stderr, and the exit status."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.options import Options
from dsv4_mlx.chat import loops
from dsv4_mlx.chat.tokens import DSML, END_THINK
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.weights.checkpoint import ModelFolder
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


def test_the_answer_goes_to_stdout_and_the_reasoning_to_stderr(folder: Path) -> None:
    done = run("--model", folder, "-p", "2+2?", open_model=opening("Let me see.</think>Four."))
    assert done == Run(0, "Four.\n", "Let me see.\n")


def test_think_none_asks_for_no_reasoning(folder: Path) -> None:
    done = run("--model", folder, "-p", "2+2?", "--think", "none", open_model=opening("Four."))
    assert done == Run(0, "Four.\n", "")


def test_an_answer_that_ends_its_line_gets_no_second_end(folder: Path) -> None:
    done = run("--model", folder, "-p", "x", "--think", "none", open_model=opening("a\nb\n"))
    assert done == Run(0, "a\nb\n", "")


class Asked:
    """Remembers the prompt that a model answers."""

    def __init__(self) -> None:
        self.prompt = ""

    def opening(self, reply: str):
        model = opening(reply)

        def open_model(opened: ModelFolder, options: Options):
            engine, tokenizer = model(opened, options)
            next_token = engine.model.next_token

            def remembering(history: list[int]) -> int:
                if history[-1] == tokenizer.control_ids[END_THINK]:
                    self.prompt = tokenizer.decode(history)
                return next_token(history)

            engine.model.next_token = remembering
            return engine, tokenizer

        return open_model

    @property
    def text(self) -> str:
        """The user message."""
        return self.prompt.partition("<｜User｜>")[2].removesuffix("<｜Assistant｜></think>")


def test_stdin_is_the_message(folder: Path) -> None:
    asked = Asked()
    options = ("--model", folder, "--think", "none")
    done = run(*options, piped="from a pipe\n", open_model=asked.opening("Hello."))
    assert (done, asked.text) == (Run(0, "Hello.\n", ""), "from a pipe")
    done = run(*options, "-p", "What?", piped="a b\nc\n", open_model=asked.opening("Hello."))
    assert (done, asked.text) == (Run(0, "Hello.\n", ""), "a b\nc\n\nWhat?")


def test_files_come_before_what_is_asked_and_piped_text_before_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("a = 1\n")
    (tmp_path / "b c.py").write_text("b = 2\n")
    asked = Asked()
    options = ("--model", folder, "--think", "none")
    question = 'Compare @a.py with @"b c.py".'
    done = run(*options, "-p", question, piped="+ diff\n", open_model=asked.opening("Same."))
    assert done == Run(0, "Same.\n", "")
    files = "".join(
        f"[file name]: {name}\n[file content begin]\n{content}\n[file content end]\n"
        for name, content in (("a.py", "a = 1"), ("b c.py", "b = 2"))
    )
    assert asked.text == f"+ diff\n\n{files}{question}"
    run(*options, "-p", "Explain.", "@a.py", open_model=asked.opening("It counts."))
    assert asked.text.endswith("a = 1\n[file content end]\n@a.py Explain.")


def test_a_file_that_is_not_there_stops_before_the_model_is_asked(folder: Path) -> None:
    done = run("--model", folder, "@absent.txt", "-p", "Read it", open_model=opening("No."))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("dsv4-chat: no file is called absent.txt in")


def test_a_word_with_an_at_sign_is_text_unless_it_names_a_file(folder: Path) -> None:
    done = run("--model", folder, "-p", "what is @dataclass?", open_model=opening("</think>So."))
    assert (done.status, done.stdout) == (0, "So.\n")
    assert done.stderr.startswith("[@dataclass? names no file in ")


def test_an_answer_can_come_at_once(folder: Path) -> None:
    options = ("--model", folder, "-p", "x", "--no-stream")
    model = opening("Let me see.</think>One two three.")
    assert run(*options, open_model=model) == Run(0, "One two three.\n", "Let me see.\n")
    done = run(*options, "--json", open_model=model)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event for event in events if event["type"].endswith("_delta")] == [
        {"type": "reasoning_delta", "text": "Let me see."},
        {"type": "text_delta", "text": "One two three."},
    ]
    assert events[-1]["type"] == "done"


def test_an_answer_that_fails_comes_not_at_all_when_it_should_come_at_once(folder: Path) -> None:
    model = opening("Never…")

    def open_model(opened: ModelFolder, options: Options):
        engine, tokenizer = model(opened, options)
        engine.model.fail_at = 9
        return engine, tokenizer

    with pytest.raises(RuntimeError, match="told to fail"):
        run("--model", folder, "-p", "x", "--no-stream", open_model=open_model)


def test_raw_changes_nothing_on_the_way_into_a_pipe(folder: Path) -> None:
    evil = "a\x1b[2J\r\x9b\x00\x7f\u202eb"
    options = ("--model", folder, "-p", "x", "--raw")
    model = opening(f"{evil}</think>{evil}")
    done = run(*options, open_model=model)
    assert (done.status, done.stdout) == (0, evil)
    assert done.stderr == "a␛[2J\ufffd␀␡\ufffdb\n"
    shown = run(*options, terminal=True, variables={"NO_COLOR": "1"}, open_model=model)
    assert shown.stdout == "a␛[2J\ufffd␀␡\ufffdb\n"


@pytest.mark.parametrize(
    ("reasoning", "told"), [("show", "Let me see.\n"), ("hide", ""), ("fold", "[thought for")]
)
def test_reasoning_is_shown_as_asked(folder: Path, reasoning: str, told: str) -> None:
    options = ("--model", folder, "-p", "x", "--reasoning", reasoning)
    done = run(*options, open_model=opening("Let me see.</think>Four."))
    assert done.stdout == "Four.\n"
    assert done.stderr.startswith(told) and bool(told) == bool(done.stderr)


def test_reasoning_is_dim_on_a_terminal(folder: Path) -> None:
    options = ("--model", folder, "-p", "2+2?")
    dim = run(*options, terminal=True, open_model=opening("a</think>b"))
    assert dim.stdout == "b\n"
    assert dim.stderr.endswith("\x1b[2ma\x1b[0m\n")


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_no_escape_codes_where_they_are_unwelcome(folder: Path, variables: dict) -> None:
    done = run(
        "--model", folder, "-p", "x", terminal=True, variables=variables,
        open_model=opening("a</think>b"),
    )  # fmt: skip
    assert done.status == 0
    assert done.stdout == "b\n"
    assert done.stderr.endswith("a\n")
    assert "\x1b" not in done.stderr


def test_progress_is_drawn_on_a_terminal_only_and_wiped(folder: Path) -> None:
    drawn = ["loading the model", *(f"reading {n} of 5 tokens" for n in (0, 5))]
    on_terminal = run(
        "--model", folder, "-p", "x", "--think", "none", terminal=True, open_model=opening("b")
    )
    wiped = "".join(f"{text}\r{' ' * len(text)}\r" for text in drawn)
    assert on_terminal == Run(0, "b\n", wiped)


def test_control_characters_of_the_model_never_arrive(folder: Path) -> None:
    evil = "a\x1b]0;title\x07b\x1b[2J\x9b31mc\rd\u202ee\x00f\tg\x7f"
    done = run("--model", folder, "-p", "x", open_model=opening(f"{evil}</think>{evil}"))
    safe = "a␛]0;title␇b␛[2J\ufffd31mcd\ufffde␀f\tg␡\n"
    assert done == Run(0, safe, safe)


def test_json_has_one_event_per_line(folder: Path) -> None:
    call = f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="f">\n</{DSML}invoke>\n</{DSML}tool_calls>'
    model = opening(f"R</think>T\x9b{call}")
    done = run("--model", folder, "-p", "x", "--json", "--seed", "1", open_model=model)
    assert (done.status, done.stderr) == (0, "")
    assert "\x9b" not in done.stdout
    events = [json.loads(line) for line in done.stdout.splitlines()]
    completion = events[-1]["usage"]["completion_tokens"]
    timing = events[-1].pop("timing")
    assert timing.keys() == {"prefill_s", "first_token_s", "generation_s", "tokens_per_s"}
    assert timing["first_token_s"] >= timing["prefill_s"] > 0
    assert events == [
        {"type": "progress", "done": 0, "total": 5},
        {"type": "progress", "done": 5, "total": 5},
        {"type": "reasoning_delta", "text": "R"},
        {"type": "text_delta", "text": "T"},
        {"type": "text_delta", "text": "\x9b"},
        {"type": "tool_call", "name": "f", "arguments": "{}"},
        {
            "type": "done",
            "finish_reason": "tool_calls",
            "usage": {
                "prompt_tokens": 5,
                "cached_tokens": 0,
                "completion_tokens": completion,
                "reasoning_tokens": 1,
            },
        },
    ]


def test_a_tool_call_is_told_on_stderr(folder: Path) -> None:
    call = f'<{DSML}invoke name="f">\n{{"a": 1}}\n</{DSML}invoke>'
    done = run("--model", folder, "-p", "x", "--think", "none", open_model=opening(f"Wait.{call}"))
    assert done == Run(0, "Wait.\n", "tool call: f\n  a: 1\n")


def test_the_limit_is_told(folder: Path) -> None:
    options = ("--model", folder, "-p", "x", "--think", "none", "--max-tokens", "3")
    done = run(*options, open_model=opening("…"))
    assert done == Run(0, "…\n", "[stopped after 3 tokens, the limit]\n")


def test_stop_texts_end_the_answer_and_are_told(folder: Path) -> None:
    options = ("--model", folder, "-p", "x", "--stop", "END", "--stop", r"\n\n")
    reply = "END of it.</think>One.\nTwo.\n\nThree. END"
    done = run(*options, open_model=opening(reply))
    assert done == Run(0, "One.\nTwo.\n", 'END of it.\n[ended before the stop text "\\n\\n"]\n')
    for name in ("--raw", "--no-stream", "--plain"):
        assert run(*options, name, open_model=opening(reply)).stdout.rstrip("\n") == "One.\nTwo."


def test_json_says_which_stop_text_was_met(folder: Path) -> None:
    options = ("--model", folder, "-p", "x", "--think", "none", "--json", "--stop", "END")
    *_, done = map(json.loads, run(*options, open_model=opening("aENDb")).stdout.splitlines())
    assert (done["finish_reason"], done["stop_text"]) == ("stop_text", "END")


@pytest.mark.parametrize("wanted", [("", "expected|takes a text"), ("x\udcff", "must be UTF-8")])
def test_a_stop_text_that_is_none_is_refused(folder: Path, wanted) -> None:
    done = run("--model", folder, "-p", "x", "--stop", wanted[0], open_model=opening("a"))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--stop" in done.stderr


def test_a_loop_is_told_and_can_be_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "LEAST_TOKENS", 128)
    options = ("--model", folder, "-p", "x", "--think", "none")
    loop = "go on " * 70
    told = run(*options, open_model=opening(loop))
    assert told.stdout == loop + "\n"
    assert told.stderr.startswith("[the answer runs in a loop: the same ")
    ended = run(*options, "--loop", "stop", open_model=opening(loop))
    assert 0 < len(ended.stdout) < len(loop)
    assert ended.stderr.splitlines()[1:] == ["[ended, since it repeated itself]"]
    assert run(*options, "--loop", "off", open_model=opening(loop)).stderr == ""


def test_an_error_is_one_sentence(folder: Path) -> None:
    def open_model(opened: ModelFolder, options: Options):
        raise CheckpointError("model-00002-of-00002.safetensors is missing; download it again.")

    sentence = "model-00002-of-00002.safetensors is missing; download it again."
    options = ("--model", folder, "-p", "x")
    assert run(*options, open_model=open_model) == Run(1, "", f"dsv4-chat: {sentence}\n")
    event = json.dumps({"type": "error", "message": sentence})
    done = run(*options, "--json", open_model=open_model)
    assert done == Run(1, f"{event}\n", f"dsv4-chat: {sentence}\n")


def test_a_folder_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    done = run("--model", tmp_path / "absent", "-p", "x")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr == (
        f"dsv4-chat: {tmp_path}/absent is not a model folder: it has no config.json; "
        "give the folder that holds the downloaded or converted model.\n"
    )


def test_ctrl_c_while_the_model_loads_is_130(folder: Path) -> None:
    def open_model(opened: ModelFolder, options: Options):
        raise KeyboardInterrupt

    assert run("--model", folder, "-p", "x", open_model=open_model) == Run(130, "", "")


def test_the_last_event_tells_what_drafts_did(folder: Path) -> None:
    """Whatever drafts, the answer is the same, and its tokens are passes and accepted drafts."""
    line = ("--model", folder, "-p", "2+2?", "--think", "none", "--json")
    reply = "one two three four five six seven " * 6
    plain = run(*line, open_model=opening(reply)).stdout
    drafted = run(*line, "--draft", "lookup", open_model=opening(reply)).stdout
    *events, done = [json.loads(text) for text in drafted.splitlines()]
    assert events == [json.loads(text) for text in plain.splitlines()][:-1]
    assert "draft" not in json.loads(plain.splitlines()[-1])
    draft = done["draft"]
    assert list(draft) == ["passes", "drafted", "accepted", "saved_s"]
    assert done["usage"]["completion_tokens"] == draft["passes"] + draft["accepted"]
    assert 0 < draft["accepted"] <= draft["drafted"]


@pytest.mark.parametrize("reason", ["", "products are slow here"])
def test_what_a_load_found_of_rows_is_said_in_a_line_and_in_the_last_event(
    folder: Path, reason: str
) -> None:
    def open_model(opened: ModelFolder, options: Options) -> Any:
        engine, tokenizer = opening("Four.")(opened, options)
        engine.model.kernel_plan = lambda: {"backend": "metal"}  # type: ignore[attr-defined]
        engine.model.row_finding = RowFinding(1 if reason else 8, reason)  # type: ignore[attr-defined]
        return engine, tokenizer

    line = ("--model", folder, "-p", "2+2?", "--think", "none", "--json")
    done = run(*line, open_model=open_model)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["exact_rows"] == (1 if reason else 8)
    said = f"[drafts are off unless --draft names one: {reason}]"
    assert done.stderr.splitlines().count(said) == bool(reason)
    plain = run(*line, open_model=opening("Four."))
    assert "exact_rows" not in json.loads(plain.stdout.splitlines()[-1])


def test_the_last_event_tells_which_rank_has_which_layers(folder: Path) -> None:
    piped = {"ranks": 2, "layers": [[3, 6], [0, 3]], "bytes_loaded": [12, 10]}

    def open_model(opened: ModelFolder, options: Options) -> Any:
        engine, tokenizer = opening("Four.")(opened, options)
        engine.model.pipeline = piped  # type: ignore[attr-defined]
        return engine, tokenizer

    line = ("--model", folder, "-p", "2+2?", "--think", "none", "--json")
    two, one = (
        json.loads(run(*line, open_model=open_with).stdout.splitlines()[-1])
        for open_with in (open_model, opening("Four."))
    )
    assert two["pipeline"] == piped and "pipeline" not in one


@pytest.mark.parametrize(
    ("options", "configured", "draft", "keeps"),
    [
        ((), "", "auto", True),
        (("--draft", "lookup", "--no-save"), 'draft = "off"', "lookup", False),
        ((), 'draft = "off"', "off", True),
    ],
)
def test_a_load_knows_what_drafts_and_what_was_found_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: Any, configured: str, draft: str,
    keeps: bool, tmp_path: Path,
) -> None:  # fmt: skip
    seen: list[Any] = []

    def load_model(opened: ModelFolder, options: Options, **given: Any) -> Any:
        seen.append(given)
        return opening("Four.")(opened, options)

    monkeypatch.setattr("cli.completed_options.load_model", load_model)
    (tmp_path / "config.toml").write_text(configured)
    line = ("--model", folder, "-p", "2+2?", "--think", "none", *options)
    done = run(*line, variables={"DSV4_HOME": str(tmp_path)})
    assert done.status == 0, done.stderr
    assert [one["draft"] for one in seen] == [draft]
    assert [one["findings"] is not None for one in seen] == [keeps]


def test_a_drafter_that_a_model_has_not_is_refused(folder: Path) -> None:
    done = run("--model", folder, "-p", "x", "--draft", "mtp", open_model=opening("Four."))
    assert done.status == 2 and not done.stdout
    assert "a model with mtp drafts but this one has no draft weights" in done.stderr
