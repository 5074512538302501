"""A chat at the prompt: messages in; answers and the files of a conversation, out.

The controller and the commands lead it, on the controller's thread. Another thread, the one that
draws above all, may call only what says so.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, Any

from cli import attachments
from cli.kept.branch import Branch
from cli.kept.branches import Branches
from cli.kept.keeping import Keeping
from cli.kept.session_log import SessionLog
from cli.models import Models
from cli.opened_model import OpenedModel
from cli.preferences import Preferences
from cli.safe import harmless
from cli.show.surface import Status, Surface, View
from cli.talk.chat_status import status_of
from cli.tools.use import ToolUse
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, Event, Progress
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.errors import Dsv4Error

if TYPE_CHECKING:
    from cli.kept.session_search import Hit
    from cli.tools.use import MakeToolbox

_AUTOSAVE_BYTES = 64 << 20
"""A cache up to this size is written after every answer, a larger one when the person leaves."""


@dataclass
class Chat:
    """One run of the prompt."""

    surface: Surface
    view: View
    models: Models
    model: OpenedModel
    preferences: Preferences
    branches: Branches
    make_toolbox: "MakeToolbox"
    folder: Path
    """Where @files, !commands and tools work."""
    status_line: bool = True
    auto_compact: bool = False
    """Compact by itself when the context is nearly full."""
    found: list["Hit"] = field(default_factory=list)  # by the last /search
    left: bool = False
    outputs: list[str] = field(default_factory=list)
    """Of !commands, for the next message."""
    _heard: bool = False  # something of the answer to this message came
    tools: ToolUse = field(init=False)
    done: Done | None = None
    _answering: Conversation | None = None
    _busy: str = ""
    _changing: Lock = field(default_factory=Lock)
    _drawing: Lock = field(default_factory=Lock)
    """Held from reading what the status line says until it is shown, so that the latest stays."""
    stop: Flag = field(default_factory=Flag)
    """Set by Ctrl-C; cleared before each text is carried out."""

    def __post_init__(self) -> None:
        self.tools = ToolUse(self.make_toolbox, self.surface.ask, self.is_stopped)
        self.use_tools(self.preferences.tools)

    @property
    def branch(self) -> Branch:
        """The one that goes on; for any thread."""
        return self.branches.current

    @property
    def keeping(self) -> Keeping:
        """What writes the files of this run."""
        return self.branches.keeping

    def interrupt(self) -> None:
        """Stop what is being done; from any thread, and from signal handlers."""
        self.stop.set()
        for conversation in (self.branch.conversation, self._answering):
            if conversation is not None:
                conversation.cancel()

    def is_stopped(self) -> bool:
        """Whether `interrupt` was called since the present text was taken; from any thread."""
        return self.stop.is_set()

    # What is sent

    def send(self, text: str) -> None:
        """A message with the files it names and what commands printed; if it fails, all of that
        waits for the next one, and what was typed is in the input again or in the history."""
        self._heard = False
        try:
            self._send(text)
        except (Dsv4Error, OSError):
            if not self._heard:
                self.surface.give_back()
            raise

    def _send(self, text: str) -> None:
        conversation = self.opened()
        if "@" in text:
            self.show_status("reading files")
        expanded = attachments.expand(
            text, self.folder, conversation.count, stopped=self.is_stopped
        )
        for note in expanded.notes:
            self.note(note)
        for one in expanded.attached:
            self.note(f"attached {one}")
        outputs, number = "".join(self.outputs), self.branch.editing
        message, shared = outputs + expanded.text, outputs + expanded.shared
        if number is None:
            self.take_turn(message, lambda: conversation.send(message, shared=shared))
        else:
            self.take_turn(message, lambda: conversation.edit(number, message, shared=shared))
        self.outputs, self.branch.editing = [], None

    # Answers

    def take_turn(self, text: str, begin: Callable[[], Iterator[Event]]) -> None:
        """One user turn with all its tool calls, kept as far as it came."""
        branch, log = self.branch, self.open_log()
        if log is not None:
            self.keeping.write(lambda: log.begin_turn(text))
        try:
            calls = self.show(self.opened(), begin())
            while calls:
                results = [(call.id, self._use_tool(call)) for call in calls]
                conversation = self.opened()
                calls = self.show(conversation, conversation.answer_tools(results))
        finally:
            self.keeping.write(branch.keep)
        if branch.cache_bytes <= _AUTOSAVE_BYTES:
            self.keeping.save_cache(branch)

    def show(
        self, conversation: Conversation, events: Iterator[Event], busy: str = "answering"
    ) -> list[ToolCall]:
        """Show one answer of `conversation`; the tool calls in it that wait for results."""
        calls: list[ToolCall] = []
        finished = None
        self._answering = conversation
        self.show_status(busy)
        if self.stop.is_set():
            conversation.cancel()  # it was stopped before this answer began
        self.view.begin(conversation.count)
        try:
            for event in events:
                self._heard = self._heard or not isinstance(event, Progress)
                if self.stop.is_set():
                    conversation.cancel()  # a generator may begin the answer only here
                if isinstance(event, ToolCall):
                    calls.append(event)
                elif isinstance(event, Done):
                    self.done = event
                    finished = event.finish_reason
                self.view.feed(event)
        finally:
            self._answering = None
            self.view.end()
        self.show_status()
        return calls if finished == "tool_calls" else []

    def _use_tool(self, call: ToolCall) -> str:
        self.show_status(f"tool {call.name}")
        return self.tools.run(call)

    def opened(self) -> Conversation:
        """The conversation of this branch, with the present settings; waits for the model."""
        branch = self.branch
        if branch.conversation is None:
            if not self.model.opening.done():
                self.show_status("loading the model")
            branch.conversation = self.conversation(branch.logged)
            self.keeping.load_cache(branch)
        branch.conversation.settings = replace(self.settings, tools=self.tool_definitions())
        return branch.conversation

    def conversation(self, turns: Sequence[Turn]) -> Conversation:
        """One that begins with `turns`; waits for the model."""
        return self.models.conversation(self.model, self.settings, turns, self.stop, self.note)

    # Settings

    @property
    def settings(self) -> AnswerSettings:
        """Those of the next answer, but for the tools."""
        return self.preferences.answer_settings(self.model.settings)

    def change(self, changed: Callable[[Preferences], Preferences]) -> None:
        """Replace the preferences by what `changed` makes of them; from any thread."""
        with self._changing:
            self.preferences = changed(self.preferences)

    def set(self, name: str, value: Any) -> None:
        """Change one preference, in the conversation's file as well."""
        self.change(lambda preferences: replace(preferences, **{name: value}))
        if (log := self.branch.log) is not None:
            self.keeping.write(lambda: log.settings(self.preferences.as_record()))

    def next_level(self) -> None:
        """Go on to the next level of this checkpoint; from any thread, the next turn keeps it."""
        self.change(lambda preferences: preferences.at_next_level(self.model.settings))
        self._draw_status()

    def use_tools(self, on: bool) -> None:
        """Let the model use tools from the next turn on, or stop it."""
        self.tools.turn(on)
        if on != self.preferences.tools:
            self.set("tools", on)

    def tool_definitions(self) -> tuple[dict[str, Any], ...]:
        """What the model may use now; waits for servers that are starting, until Ctrl-C."""
        if is_late := self.tools.is_starting:
            self.show_status("starting tools")
        for problem in self.tools.problems():
            self.view.error(problem)
        if is_late and not self.is_stopped():
            self.note(f"{len(self.tools.definitions())} tools are there now")
        return self.tools.definitions()

    def lead(self, changed: Callable[[Preferences], Preferences]) -> None:
        """Go on with what `changed` makes of the preferences, as far as this checkpoint can give
        it, and with or without tools as they say."""
        self.change(changed)
        self.fit_preferences()
        self.use_tools(self.preferences.tools)

    def fit_preferences(self) -> None:
        """Give up, and say so, what this checkpoint cannot give."""
        with self._changing:
            self.preferences, problem = self.preferences.fitting(self.model.settings)
        if problem is not None:
            self.note(problem)

    # Keeping

    def open_log(self) -> SessionLog | None:
        """The file of this branch, begun now if there was none; None where nothing is kept."""
        return self.branches.open_log(self.model.place, self.preferences.as_record())

    def begin(self, branch: Branch) -> None:
        """Close what is open, each kept, and go on with `branch` alone; what was allowed for good
        was allowed in the conversation that ends."""
        for sentence in self.tools.forget():
            self.note(sentence)
        self._tell_keeping()
        self.branches.begin(branch, self.preferences.as_record())
        self.outputs, self.done = [], None

    def close(self) -> None:
        """Keep every branch and end what tools left running."""
        self._tell_keeping()
        self.branches.close(self.preferences.as_record())
        self.tools.leave()

    def _tell_keeping(self) -> None:
        if any(branch.log is not None for branch in self.branches):
            self.show_status("keeping the conversation")

    # Showing

    def note(self, sentence: str) -> None:
        """One calm line."""
        self.view.note(f"[{sentence}]")

    def print_lines(self, lines: Sequence[str], *, at_most: int | None = None) -> None:
        """Lines as they are, made harmless; beyond `at_most` only their number."""
        from rich.text import Text

        shown = [harmless(line) for line in lines[:at_most]]
        if len(shown) < len(lines):
            shown.append(f"[{len(lines) - len(shown):,} more lines]")
        if shown:
            self.surface.show(Text("\n".join(shown)))

    def show_status(self, busy: str = "") -> None:
        """Bring the status line up to date; `busy` is what is being done."""
        self._busy = busy
        self._draw_status()

    def _draw_status(self) -> None:
        with self._drawing:
            status = Status("", "")
            if self.status_line:
                conversation = self.branch.conversation
                use = None if conversation is None else conversation.context()
                status = status_of(self.model, self.settings, use, self.done)
            self.surface.status(replace(status, busy=self._busy))
