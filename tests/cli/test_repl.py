"""The prompt on plain lines: messages, commands, and what is left on the screen."""

import signal
from pathlib import Path

import pytest

from dsv4_mlx.errors import CheckpointError
from tests.cli.running import Run, run
from tests.cli.scripted import opening, write_chat_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_folder(tmp_path_factory.mktemp("model"))


def chat(folder: Path, *lines: str, model=None, options: tuple[str, ...] = ()) -> Run:
    typed = "".join(f"{line}\n" for line in lines)
    return run("--model", folder, *options, typed=typed, open_model=model or opening("a</think>b"))


def test_every_line_is_a_message_until_the_end_of_input(folder: Path) -> None:
    done = chat(folder, "one", "", "two", model=opening("r1</think>First.", "r2</think>Second."))
    assert done == Run(0, "First.\nSecond.\n", "> r1\n> > r2\n> ")


def test_quit_leaves(folder: Path) -> None:
    assert chat(folder, "/quit", "never") == Run(0, "", "> ")


def test_help_lists_the_commands(folder: Path) -> None:
    done = chat(folder, "/help")
    assert done.stdout == ""
    assert done.stderr == (
        "> /think [LEVEL]  show or set the thinking level\n"
        "/new            forget the conversation and start again\n"
        "/help           this list\n"
        "/quit           leave (Ctrl-D does too)\n"
        "A message that begins with a slash needs a space before it.\n> "
    )


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
        "> ",
    )


def test_new_forgets_the_conversation(folder: Path) -> None:
    model = opening("r</think>First.", "r</think>Second.")
    done = chat(folder, "/new", "a", "/new", "b", "c", model=model)
    assert done.stdout == "First.\nFirst.\nSecond.\n"
    assert done.stderr == "> [new conversation]\n> r\n> [new conversation]\n> r\n> r\n> "


def test_unknown_commands_are_refused_and_a_space_makes_them_messages(folder: Path) -> None:
    done = chat(folder, "/etc/hosts", " /etc/hosts", "/")
    assert done == Run(
        0, "b\n", "> dsv4-chat: there is no command /etc/hosts; /help lists them.\n> a\n"
        "> dsv4-chat: there is no command /; /help lists them.\n> ",
    )  # fmt: skip


def test_an_error_of_one_turn_leaves_the_prompt_open(tmp_path: Path) -> None:
    small = write_chat_folder(tmp_path, context=40)

    def open_model(path: Path, backend: str):
        from dsv4_mlx.tokenizer import Tokenizer
        from tests.cli.scripted import scripted_engine

        tokenizer = Tokenizer(path)
        return scripted_engine(tokenizer, ["a</think>b"], context=40), tokenizer

    done = chat(small, "word " * 100, "x", model=open_model)
    assert (done.status, done.stdout) == (0, "b\n")
    assert done.stderr.startswith("> dsv4-chat: The prompt has ")
    assert done.stderr.endswith("shorten it.\n> a\n> ")


def test_a_model_that_cannot_be_loaded_ends_the_program(folder: Path) -> None:
    def open_model(path: Path, backend: str):
        raise CheckpointError("a shard is missing.")

    assert chat(folder, "x", "y", model=open_model) == Run(
        1, "", "> dsv4-chat: a shard is missing.\n"
    )


def test_ctrl_c_while_the_model_loads_keeps_the_prompt(folder: Path) -> None:
    def open_model(path: Path, backend: str):
        raise KeyboardInterrupt

    done = chat(folder, "x", "/think", model=open_model)
    levels = "[thinking level high; levels: none, high, max]"
    assert done == Run(0, "", f"> [stopped]\n> {levels}\n> ")


def test_the_first_interrupt_stops_the_answer_and_the_second_is_one_as_usual() -> None:
    from cli.interrupts import stopping_on_interrupt

    stopped = []
    before = signal.getsignal(signal.SIGINT)
    with stopping_on_interrupt(lambda: stopped.append(True)):
        signal.raise_signal(signal.SIGINT)
        assert stopped == [True]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stopped == [True]
    assert signal.getsignal(signal.SIGINT) is before
