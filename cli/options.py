"""The command line of `dsv4-chat`: parsing, checking, help."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cli.command_parser import CommandParser
from cli.environment import Environment
from cli.model_options import add_the_ends, add_the_model, add_the_script
from cli.ranks.options import add_the_machines
from dsv4_mlx.chat.loops import Loops
from dsv4_mlx.chat.stops import unescaped
from dsv4_mlx.engine.draft_choice import DraftChoice
from dsv4_mlx.errors import UsageError

_USAGE = "dsv4-chat [options] [-p TEXT] [@FILE ...] | doctor | config | serve"
_DESCRIPTION = """\
Chat with DeepSeek-V4 in the terminal. Without --model the small model that
comes with the program answers.

Text on stdin, or of an @FILE, is the message; with -p as well, it stands
before the text of -p. With none of them a prompt opens: /help lists its
commands. Answers go to stdout; reasoning and notes go to stderr.

dsv4-chat doctor says what this machine can run; dsv4-chat config prints the
configuration file with every default; dsv4-chat serve answers programs over
HTTP, and its own --help lists its options.
"""
_EPILOG = """\
Ctrl-C stops the answer and keeps what was said.
Exit status: 0 done, 1 error, 2 usage, 130 interrupted.
Environment: DSV4_BACKEND and DSV4_KERNELS (as --backend and --kernels),
DSV4_HOME (conversations), DSV4_API_KEY (the key of --server), NO_COLOR.
"""

SUBCOMMANDS = ("doctor", "config")
THEMES = ("auto", "dark", "light", "plain")
REASONING = ("fold", "show", "hide")


@dataclass(frozen=True)
class Options:
    """One command line. None means: as the configuration or the checkpoint says."""

    model: Path | None = None
    prompt: str | None = None
    system: str | None = None
    think: str | None = None
    effort_table: str = "auto"
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    backend: str | None = None
    kv: Literal["compact", "bf16"] | None = None
    json: bool = False
    version: bool = False
    resume: str | None = None
    """A conversation's name or id; "" is the newest."""
    keep: bool = True
    budget: int | None = None
    tools: bool | None = None
    engine: str | None = None
    server: str | None = None
    """A running server whose model answers."""
    stream: bool = True
    raw: bool = False
    plain: bool = False
    theme: str | None = None
    reasoning: str | None = None
    path: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] | None = None
    loop: Loops | None = None
    prefill_chunk: int | None = None
    compile: bool = True
    draft: DraftChoice | None = None
    draft_max: int | None = None
    expert_memory: int | Literal["auto"] | None = None
    """Bytes for experts in memory; `auto` decides by what there is."""
    expert_trace: Path | None = None
    """Where to write which experts tokens chose."""
    kernels: str | None = None
    """A backend, and kernels to leave out with a - before each."""
    disk: bool | None = None
    """Whether doctor measures the model's disk; None where experts are read from it."""
    hosts: Path | None = None
    """Two machines that run the model together."""
    port: int | None = None
    peer_timeout: int | None = None
    """Seconds of silence after which a machine is given up."""
    allow_sleep: bool = False
    words: tuple[str, ...] = ()
    """A subcommand, or files to attach."""

    @property
    def subcommand(self) -> str | None:
        """`doctor` or `config`, where one was given."""
        return self.words[0] if self.words and self.words[0] in SUBCOMMANDS else None


def parse(arguments: list[str], environment: Environment) -> Options:
    """The options in `arguments`. Raises UsageError, or Helped once help is printed."""
    given = vars(_parser(environment).parse_intermixed_args(arguments))
    stop = stop_texts(given["stop"])
    options = Options(**given | {"words": tuple(given["words"]), "stop": stop})
    for name, text in (("-p", options.prompt), ("--system", options.system)):
        require_text(name, text)
    _check_words(options)
    return options


def stop_texts(texts: Sequence[str] | None) -> tuple[str, ...] | None:
    """What --stop was given; UsageError for an empty text."""
    return None if texts is None else tuple(map(_stop_text, texts))


def _stop_text(text: str) -> str:
    require_text("--stop", text)
    if not text:
        raise UsageError("--stop takes a text of at least one character, got an empty one.")
    return unescaped(text)


def help_text(environment: Environment) -> str:
    """What --help prints."""
    return _parser(environment).format_help()


def _check_words(options: Options) -> None:
    alone = options.subcommand is not None and len(options.words) == 1
    for word in () if alone else options.words:
        if not word.startswith("@"):
            raise UsageError(
                f"expected @FILE, doctor or config, found {word!r}; give a message with -p TEXT."
            )


def _parser(environment: Environment) -> CommandParser:
    """The options in the order of the help."""
    parser = CommandParser(environment, "dsv4-chat", _USAGE, _DESCRIPTION, _EPILOG)
    add_the_model(
        parser.add_argument,
        lambda add: add("-p", dest="prompt", metavar="TEXT", help="answer this message and leave"),
    )
    add_the_machines(parser.add_argument)
    parser.add_argument(
        "--allow-sleep", action="store_true", help="with two Macs: hold off no idle sleep"
    )
    _add_the_conversation(parser.add_argument)
    _add_the_output(parser.add_argument)
    return parser


def _add_the_conversation(add: Callable[..., Any]) -> None:
    """What goes on, what ends an answer, and what the model may use."""
    add(
        "--continue",
        dest="resume",
        action="store_const",
        const="",
        help="go on with the newest conversation",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="NAME",
        help="go on with a conversation, by name or id; /sessions lists them",
    )
    add("--no-save", dest="keep", action="store_false", help="keep nothing of this run")
    add_the_ends(add)
    add("--tools", action=argparse.BooleanOptionalAction, help="let the model use tools")
    add_the_script(add)
    add("--server", metavar="URL", help="use the model of a running dsv4-chat serve")


def _add_the_output(add: Callable[..., Any]) -> None:
    """What is shown, and what the other words mean."""
    add("--no-stream", dest="stream", action="store_false", help="print the answer when complete")
    add("--raw", action="store_true", help="the answer byte for byte, Markdown and all")
    add("--plain", action="store_true", help="plain lines, nothing redrawn; for screen readers")
    add("--theme", choices=THEMES, help="colours; auto asks the terminal's own hints")
    add("--reasoning", choices=REASONING, help="how reasoning is shown")
    add("--json", action="store_true", help="one JSON event per line on stdout")
    add("--path", action="store_true", help="with config: where the file is")
    add(
        "--disk",
        action=argparse.BooleanOptionalAction,
        help="with doctor: measure the model's disk, 26 s; by itself where experts are read",
    )
    add("words", nargs="*", metavar="@FILE", help="files that belong to the message")
    add("--version", action="store_true", help="versions, backend, kernels, BLAS")


def require_text(name: str, text: str | None) -> None:
    """Bytes that are no UTF-8 arrive from the shell as lone surrogates."""
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} must be UTF-8 text and has other bytes in it.") from error
