"""The controller on plain lines: messages, commands, what is left on the screen and the disk."""

import gc
import json
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.options import Options
from cli.talk.commands import COMMANDS, help_lines
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.weights.checkpoint import ModelFolder
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the program is started."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chat(
    folder: Path,
    *lines: str,
    model: Callable[..., Any] | None = None,
    options: tuple[str, ...] = ("--reasoning", "show"),
) -> Run:
    typed = "".join(f"{line}\n" for line in lines)
    return run("--model", folder, *options, typed=typed, open_model=model or opening("a</think>b"))


def sessions() -> list[Path]:
    return sorted(Path(os.environ["DSV4_HOME"], "sessions").glob("*.jsonl"))


def test_every_line_is_a_message_until_the_end_of_input(folder: Path) -> None:
    done = chat(folder, "one", "", "two", model=opening("r1</think>First.", "r2</think>Second."))
    assert done == Run(0, "First.\nSecond.\n", "> r1\n> > r2\n> \n")


def test_quit_leaves(folder: Path) -> None:
    assert chat(folder, "/quit", "never") == Run(0, "", "> ")


def test_help_lists_every_command(folder: Path) -> None:
    done = chat(folder, "/help", "/help undo")
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[: len(help_lines())] == ["> " + help_lines()[0], *help_lines()[1:]]
    assert lines[len(help_lines())] == "> /undo  take the last turn back"
    shown = "\n".join(help_lines())
    assert all(f"  {command.usage}  " in shown for command in COMMANDS.values())


def test_think_shows_sets_and_refuses(folder: Path) -> None:
    done = chat(
        folder, "/think", "/think none", "x", "/think low", "/think max", model=opening("b")
    )
    assert done == Run(
        0,
        "b\n",
        "> [thinking level high; levels: none, high, max]\n"
        "> [thinking level none; levels: none, high, max]\n"
        "> > dsv4-chat: The thinking levels of this checkpoint are none, high, max (effort table "
        "2026-04), got 'low'; choose one of them.\n"
        "> [thinking level max asks for a context of at least 393,216 tokens; this checkpoint has "
        "1,048,576]\n"
        "[thinking level max; levels: none, high, max]\n"
        "> \n",
    )


def test_new_begins_a_conversation_and_keeps_the_last_one(folder: Path) -> None:
    model = opening("r</think>First.", "r</think>Second.")
    done = chat(folder, "/new", "a", "/new", "b", "c", model=model)
    assert done.stdout == "First.\nFirst.\nSecond.\n"
    assert done.stderr == "> [new conversation]\n> r\n> [new conversation]\n> r\n> r\n> \n"
    assert len(sessions()) == 2


def test_unknown_commands_are_refused_and_a_space_makes_them_messages(folder: Path) -> None:
    done = chat(folder, "/etc/hosts", " /etc/hosts", "/", "/udno")
    assert done == Run(
        0, "b\n", "> dsv4-chat: there is no command /etc/hosts; /help lists them.\n> a\n"
        "> dsv4-chat: there is no command /; /help lists them.\n"
        "> dsv4-chat: there is no command /udno; did you mean /undo?\n> \n",
    )  # fmt: skip


SETTINGS = [
    (("/temp", "/temp 0.5"), "[temperature 0: always the likeliest token]\n> [temperature 0.5]"),
    (("/temp x",), "dsv4-chat: /temp takes a number from 0 on, got 'x'."),
    (("/temp 1e-45", "/temp inf"), "[temperature 1e-45]\n> dsv4-chat: /temp takes a number from"),
    (("/temp 2", "/temp auto"), "[temperature 2]\n> [temperature 0: always the likeliest token]"),
    (("/top_p 0.9",), "[top-p 0.9]"),
    (("/top_p 0",), "dsv4-chat: /top_p takes a number above 0, at most 1, got '0'."),
    (("/top_k 40", "/top_k 0"), "[top-k 40]\n> [top-k 0: no limit]"),
    (("/top_k 0.5",), "dsv4-chat: /top_k takes a whole number from 0 on, got '0.5'."),
    (("/min_p 0.1", "/min_p auto"), "[min-p 0.1]\n> [min-p 0: no limit]"),
    (("/min_p 2",), "dsv4-chat: /min_p takes a number from 0 to 1, got '2'."),
    (("/penalty 1.2", "/penalty 1"), "[repetition penalty 1.2]\n> [repetition penalty 1: none]"),
    (("/penalty 0",), "dsv4-chat: /penalty takes a number above 0, got '0'."),
    (("/seed 3", "/seed off"), "[seed 3]\n> [a new seed for every answer]"),
    (("/draft", "/draft lookup"), "[drafts: auto, at most 5 at a time]\n> [drafts: lookup, at"),
    (("/draft 3", "/draft off"), "[drafts: auto, at most 3 at a time]\n> [no tokens are guessed"),
    (("/draft 8",), "dsv4-chat: expected 1 to 7 drafts of a pass but found 8."),
    (("/draft x",), "dsv4-chat: /draft takes auto, off, mtp, dspark, lookup, a number from 1 to 7"),
    (("/max 5", "/max -1"), "[at most 5 tokens]\n> dsv4-chat: /max takes a whole number from 1 on"),
    (("/budget 9", "/budget off"), "[reasoning ends near 9 tokens]\n> [no limit on reasoning]"),
    (("/budget 0", "/think"), "[no reasoning: its budget is 0]\n> [thinking level high; levels"),
    (("/budget -1",), "dsv4-chat: /budget takes a whole number from 0 on, got '-1'."),
    (("/system Be brief.", "/system off"), "[system message: Be brief.]\n> [no system message]"),
    (("/reasoning", "/reasoning hide"), "[reasoning: show]\n> [reasoning: hide]"),
    (("/reasoning x",), "dsv4-chat: /reasoning takes fold, show, hide, got 'x'."),
    (("/rename",), "dsv4-chat: /rename takes the new name."),
    (("/load nowhere",), "dsv4-chat: there is no session"),
    (("/save",), "dsv4-chat: there is nothing to keep yet; send a message first."),
    (("/copy",), "dsv4-chat: there is no answer to copy yet."),
    (("/export",), "dsv4-chat: /export takes a file that ends in .md, .json or .html."),
    (("/fork",), "dsv4-chat: /fork takes a name for the new branch, for example /fork idea."),
    (("/branches nowhere",), "dsv4-chat: there is no branch 'nowhere'; /branches lists them."),
    (("/sessions",), "no conversation is kept yet"),
    (("/edit",), "dsv4-chat: there is no message 0 to edit; this conversation has 0."),
    (("/retry",), "dsv4-chat: there is no message to answer again; send one first."),
    (("/undo",), "dsv4-chat: "),
    (("/model /nowhere",), "dsv4-chat: "),
    (("!",), "dsv4-chat: ! takes a command, for example !git diff."),
]


@pytest.mark.parametrize("lines, shown", SETTINGS, ids=[lines[-1] for lines, _ in SETTINGS])
def test_a_command_says_what_holds_or_what_it_takes(
    folder: Path, lines: tuple[str, ...], shown: str
) -> None:
    done = chat(folder, *lines)
    assert (done.status, done.stdout) == (0, "")
    assert done.stderr.startswith(f"> {shown}")
    assert sessions() == []


def test_undo_retry_and_edit_leave_what_was_meant(folder: Path) -> None:
    model = opening("</think>1.", "</think>2.", "</think>3.")
    lines = ("a", "b", "/undo", "c", "/retry", "/edit 1 d", "/export all.json")
    done = chat(folder, *lines, model=model)
    assert (done.status, done.stdout) == (0, "1.\n2.\n2.\n2.\n1.\n")
    messages = json.loads(Path("all.json").read_text())["messages"]
    assert [message["content"] for message in messages] == ["d", "1."]


def test_edit_without_a_text_takes_the_next_message_for_it(folder: Path) -> None:
    done = chat(folder, "a", "b", "/edit 1", "c", "/export all.json")
    assert done.status == 0
    messages = json.loads(Path("all.json").read_text())["messages"]
    assert [message["content"] for message in messages] == ["c", "b"]


def test_a_fork_goes_its_own_way(folder: Path) -> None:
    lines = ("a", "/fork idea", "b", "/branches", "/branches main", "c", "/export all.json")
    done = chat(folder, *lines, model=opening("</think>1.", "</think>2."))
    assert done.stdout == "1.\n2.\n2.\n"
    assert "  main  1 turn  a\n* idea  2 turns  b\n" in done.stderr
    messages = json.loads(Path("all.json").read_text())["messages"]
    assert [message["content"] for message in messages] == ["a", "1.", "c", "2."]
    assert len(sessions()) == 2


def test_a_conversation_goes_on_in_another_run(folder: Path) -> None:
    model = opening("</think>1.", "</think>2.", "</think>3.")
    chat(folder, "a", "/rename sums", "/system Be brief.", model=model)
    done = chat(folder, "b", "/export all.json", model=model, options=("--continue",))
    assert done.stderr.startswith("[sums: 1 turn]\n> ")
    assert done.stdout == "2.\n"
    done = chat(folder, "/system", "c", model=model, options=("--resume", "sums"))
    assert done.stderr.startswith("[sums: 2 turns]\n> [system message: Be brief.]\n")
    assert done.stdout == "3.\n"
    assert len(sessions()) == 1


def test_nothing_is_kept_when_nothing_shall_be(folder: Path) -> None:
    done = chat(folder, "a", "/save", options=("--no-save",))
    assert done.stdout == "b\n"
    assert "nothing is kept in this run; start without --no-save." in done.stderr
    assert not Path(os.environ["DSV4_HOME"], "sessions").exists()


def test_a_file_and_the_output_of_a_command_go_along(folder: Path, workplace: Path) -> None:
    (workplace / "notes.txt").write_text("remember the milk")
    lines = ("!echo bread", "y", "what do I need? @notes.txt", "/export all.json")
    done = chat(folder, *lines)
    assert "$ echo bread" in done.stderr
    assert "[attached notes.txt (17 B, " in done.stderr
    (asked, _) = json.loads(Path("all.json").read_text())["messages"]
    assert "bread" in asked["content"]
    assert "remember the milk" in asked["content"]
    assert asked["content"].endswith("what do I need? @notes.txt")


def test_a_command_that_is_not_allowed_does_not_run(folder: Path, workplace: Path) -> None:
    done = chat(folder, "!touch made", "n", "!touch made")
    assert "[not run]" in done.stderr
    assert not (workplace / "made").exists()


def test_another_model_goes_on_with_the_same_dialogue(folder: Path, tmp_path: Path) -> None:
    other = write_chat_folder(tmp_path / "other")
    lines = ("a", f"/model {other}", "b", "/export all.json")
    done = chat(folder, *lines, model=opening("</think>1.", "</think>2."))
    assert done.stdout == "1.\n2.\n"
    assert f"[model {other}]" in done.stderr
    messages = json.loads(Path("all.json").read_text())["messages"]
    assert [message["content"] for message in messages] == ["a", "1.", "b", "2."]


def test_an_error_of_one_turn_leaves_the_prompt_open(tmp_path: Path) -> None:
    small = write_chat_folder(tmp_path, context=40)

    def open_model(opened: ModelFolder, options: Options):
        from dsv4_mlx.chat.tokenizer import Tokenizer
        from tests.cli.scripted import scripted_engine

        tokenizer = Tokenizer(opened.folder)
        return scripted_engine(tokenizer, ["a</think>b"], context=40), tokenizer

    done = chat(small, "word " * 100, "x", model=open_model)
    assert (done.status, done.stdout) == (0, "b\n")
    assert done.stderr.startswith("> dsv4-chat: The prompt has ")
    assert done.stderr.endswith("shorten it.\n> a\n> \n")


def test_a_model_that_cannot_be_loaded_ends_the_program(folder: Path) -> None:
    def open_model(opened: ModelFolder, options: Options):
        raise CheckpointError("a shard is missing.")

    assert chat(folder, "x", "y", model=open_model) == Run(
        1, "", "> dsv4-chat: a shard is missing.\n"
    )


def test_ctrl_c_while_the_model_loads_keeps_the_prompt(folder: Path) -> None:
    def open_model(opened: ModelFolder, options: Options):
        raise KeyboardInterrupt

    done = chat(folder, "x", "/think", model=open_model)
    levels = "[thinking level high; levels: none, high, max]"
    assert done == Run(0, "", f"> [stopped]\n> {levels}\n> \n")


def test_the_first_interrupt_stops_the_answer_and_the_second_is_one_as_usual() -> None:
    from cli.once.interrupts import stopping_on_interrupt

    stopped = []
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_interrupt(lambda: stopped.append(True)):
        signal.raise_signal(signal.SIGINT)
        assert stopped == [True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopped == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_server_whose_tools_are_missing_is_said_once(folder: Path) -> None:
    config = Path(os.environ["DSV4_HOME"], "config.toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text('[mcp.lost]\ncommand = "no-such-program"\n', encoding="utf-8")
    done = chat(folder, "/tools on", "hello")
    assert done.stderr.count("MCP server") == 1
    assert "[tools: read_file," in done.stderr


def test_the_conversation_that_is_open_cannot_be_loaded(folder: Path) -> None:
    done = chat(folder, "a", "/rename sums", "/load sums", "b")
    assert "dsv4-chat: sums is the conversation that is open.\n" in done.stderr
    assert done.stdout == "b\nb\n"


def test_two_models_are_never_in_memory_together(folder: Path, tmp_path: Path) -> None:
    other = write_chat_folder(tmp_path / "other")
    model = opening("</think>1.", "</think>2.")
    engines: list[weakref.ref[Any]] = []

    def open_model(opened: ModelFolder, options: Options) -> Any:
        gc.collect()
        assert [engine() for engine in engines if engine() is not None] == []
        if opened.folder == tmp_path / "broken":
            raise CheckpointError("a shard is missing.")
        engine, tokenizer = model(opened, options)
        engines.append(weakref.ref(engine))
        return engine, tokenizer

    write_chat_folder(tmp_path / "broken")
    lines = ("a", f"/model {other}", "b", f"/model {tmp_path / 'broken'}", "c")
    done = chat(folder, *lines, model=open_model)
    assert (done.status, done.stdout) == (0, "1.\n2.\n1.\n")
    assert "dsv4-chat: a shard is missing.\n" in done.stderr
    assert len(engines) == 3


def test_a_model_can_take_the_place_of_a_script(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"replies": ["From the script."]}')
    lines = ("a", f"/model {folder}", "b", f"/model {tmp_path / 'nowhere'}", "c")
    model = opening("</think>1.", "</think>2.", "</think>3.")
    done = chat(folder, *lines, model=model, options=("--engine", f"fake:{script}"))
    assert done.stdout == "From the script.\n2.\n3.\n"
    assert f"[model {folder}]\n" in done.stderr


def test_a_kept_level_that_this_checkpoint_lacks_is_said_and_left(
    folder: Path, tmp_path: Path
) -> None:
    newer = ("--effort-table", "2026-07-31")
    chat(folder, "/think low", "a", options=newer)
    done = chat(folder, "b", "/think", options=("--continue", "--effort-table", "2026-04"))
    assert done.status == 0
    assert "none, high, max" in done.stderr.splitlines()[0]
    assert "[thinking level high; levels: none, high, max]" in done.stderr
    assert done.stdout == "b\n"


def test_turns_of_another_model_are_kept_as_text(folder: Path, tmp_path: Path) -> None:
    other = write_chat_folder(tmp_path / "other")
    chat(folder, "a", f"/model {other}", "b", model=opening("</think>1.", "</think>2."))
    (kept,) = sessions()
    turns = [json.loads(line) for line in kept.read_text().splitlines()]
    answers = [line["turn"]["answers"] for line in turns if "turn" in line]
    assert answers[0] != []
    assert answers[-1] == []


def test_going_elsewhere_forgets_an_edit_that_was_not_sent(folder: Path) -> None:
    lines = ("a", "b", "/fork idea", "/edit 1", "/branches main", "c", "/export all.json")
    chat(folder, *lines, model=opening("</think>1.", "</think>2.", "</think>3."))
    messages = json.loads(Path("all.json").read_text())["messages"]
    assert [message["content"] for message in messages[::2]] == ["a", "b", "c"]


def test_an_edit_attaches_what_it_names(folder: Path, workplace: Path) -> None:
    (workplace / "notes.txt").write_text("remember the @milk")
    chat(folder, "a", "/edit 1 read @notes.txt", "/export all.json")
    (asked, _) = json.loads(Path("all.json").read_text())["messages"]
    assert "remember the @milk" in asked["content"]


def test_what_is_put_back_into_the_input_names_no_file() -> None:
    from cli.attachments import escaped, expand

    text = "[file content begin]\n@property\n\n[file content end]\nexplain @a.py and me@home"
    expanded = expand(escaped(text), Path(), len)
    assert (expanded.text, expanded.attached) == (text, ())


@pytest.mark.parametrize("name", ["~nosuchuser/x.md", "x" * 300 + ".md"])
def test_a_file_that_cannot_be_written_is_one_sentence(folder: Path, name: str) -> None:
    done = chat(folder, "a", f"/export {name}", "b")
    assert (done.status, done.stdout) == (0, "b\nb\n")
    assert "dsv4-chat: " in done.stderr
    assert "Traceback" not in done.stderr
