"""The prompt: read a message or a command, show the answer, again."""

from collections.abc import Callable, Iterator
from typing import Protocol

from cli.answer_output import write_text
from cli.environment import Environment, ExitStatus
from cli.interrupts import stopping_on_interrupt
from cli.output import Output
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.settings import ChatSettings, Thinking, max_context_note
from dsv4_mlx.errors import CheckpointError, ConfigError, Dsv4Error, UsageError

PROMPT = "> "
_HELP = """\
/think [LEVEL]  show or set the thinking level
/new            forget the conversation and start again
/help           this list
/quit           leave (Ctrl-D does too)
A message that begins with a slash needs a space before it."""


class ReadLine(Protocol):
    """Reads one line typed by a person, without its end. Raises EOFError and KeyboardInterrupt."""

    def __call__(self) -> str: ...


def line_reader(environment: Environment) -> ReadLine:
    """prompt-toolkit where the terminal can draw it, else plain lines with a prompt on stderr."""
    if not environment.edits_lines:
        return lambda: _plain_line(environment)
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()
    return lambda: session.prompt(PROMPT)


def _plain_line(environment: Environment) -> str:
    environment.stderr.write(PROMPT)
    environment.stderr.flush()
    line = environment.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


class Repl:
    """One prompt, and one conversation that is opened when the first message is sent."""

    def __init__(
        self,
        environment: Environment,
        settings: ChatSettings,
        thinking: Thinking,
        open_conversation: Callable[[], Conversation],
    ) -> None:
        self._settings = settings
        self._thinking = thinking
        self._open_conversation = open_conversation
        self._conversation: Conversation | None = None
        self._environment = environment
        self._output = Output(environment)

    def run(self) -> ExitStatus:
        """Until /quit or the end of input; Ctrl-C never ends it.

        Raises CheckpointError and its like when the model turns out not to load.
        """
        for line in self._lines(line_reader(self._environment)):
            try:
                if self._obey(line):
                    break
            except KeyboardInterrupt:
                # While the model loads, or again while an answer takes its time to stop.
                self._output.note("[stopped]")
        return ExitStatus.OK

    def _obey(self, line: str) -> bool:
        """Carry out one line; True to leave."""
        if line.startswith("/"):
            return self._command(*line[1:].split(maxsplit=1))
        if line.strip():
            self._answer(line)
        return False

    def _lines(self, read_line: ReadLine) -> Iterator[str]:
        while True:
            try:
                yield read_line()
            except KeyboardInterrupt:
                # Ctrl-C drops the line being typed and never the conversation.
                self._output.note("[/quit or Ctrl-D leaves]")
            except EOFError:
                return

    def _answer(self, text: str) -> None:
        if self._conversation is None:
            self._output.progress("loading the model")
            self._conversation = self._open_conversation()
            self._conversation.thinking = self._thinking
        try:
            with stopping_on_interrupt(self._conversation.cancel):
                write_text(self._conversation.send(text), self._output)
        except (CheckpointError, ConfigError):
            raise
        except Dsv4Error as error:
            self._output.error(str(error))

    def _command(self, name: str = "", argument: str = "") -> bool:
        """Carry out one command; True to leave."""
        match name:
            case "quit" | "exit":
                return True
            case "new":
                if self._conversation is not None:
                    self._conversation.clear()
                self._output.note("[new conversation]")
            case "think":
                self._think(argument.strip())
            case "help":
                self._output.note(_HELP)
            case _:
                self._output.error(f"there is no command /{name}; /help lists them.")
        return False

    def _think(self, name: str) -> None:
        if name:
            try:
                self._thinking = self._settings.thinking(name)
            except UsageError as error:
                self._output.error(str(error))
                return
            if self._conversation is not None:
                self._conversation.thinking = self._thinking
            if name == "max":
                self._output.note(max_context_note(self._settings))
        level = self._thinking.level
        self._output.note(f"[thinking level {level}; levels: {', '.join(self._settings.levels)}]")
