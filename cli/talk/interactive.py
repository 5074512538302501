"""The prompt, put together: a surface, a view on it, and the controller between them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.config import Config
from cli.environment import Environment, ExitStatus, working_folder
from cli.kept.branches import Branches
from cli.kept.keeping import Keeping
from cli.kept.private_files import NoHome, state_home
from cli.kept.sessions import SessionStore
from cli.models import Models
from cli.opened_model import OpenedModel
from cli.options import Options
from cli.preferences import Preferences
from cli.show.screen.terminal_modes import TerminalModes
from cli.show.surface import Hooks, Surface, View
from cli.talk.chat import Chat
from cli.talk.commands import COMMANDS
from cli.talk.controller import control
from cli.talk.resuming import resume
from cli.talk.welcome import HINT, WELCOME, is_first
from cli.tools.use import toolbox_in

if TYPE_CHECKING:
    from cli.show.screen.drafts import Drafts


def talk(
    environment: Environment,
    options: Options,
    config: Config,
    models: Models,
    model: OpenedModel,
    preferences: Preferences,
) -> ExitStatus:
    """Open the prompt until the person leaves."""
    folder = working_folder()
    root, problem = _root(environment)
    store = None
    if root is not None and options.keep:
        store = SessionStore(root / "sessions", kv_budget_bytes=config.session_kv_bytes)
    with _hushed(environment, is_plain=options.plain or config.plain) as modes:
        surface, view = _shown(environment, options, config, root, modes)
        chat = Chat(
            surface,
            view,
            models,
            model,
            preferences,
            Branches(Keeping(store, lambda sentence: view.note(f"[{sentence}]"), view.error)),
            toolbox_in(folder, config.servers),
            folder,
            config.status_line,
            config.auto_compact,
        )
        if model.is_embedded and is_first(root):
            for line in WELCOME:
                view.note(line)
        if problem and options.keep:
            chat.note(f"nothing of this run is kept: {problem}")
        if options.resume is not None:
            resume(chat, options.resume, given=options)
        return surface.run(lambda: control(chat), _hooks(chat))


@contextmanager
def _hushed(environment: Environment, *, is_plain: bool) -> Iterator[TerminalModes | None]:
    """The modes of the terminal, which echoes nothing meanwhile; None for plain lines."""
    if is_plain or not environment.edits_lines:
        yield None
        return
    modes = TerminalModes(environment.stdin)
    modes.hush()
    try:
        yield modes
    finally:
        modes.restore()


def _hooks(chat: Chat) -> Hooks:
    def arguments(command: str, typed: str) -> Sequence[str]:
        known = COMMANDS.get(command)
        return known.choices(chat) if known else ()

    return Hooks(
        chat.interrupt, chat.next_level, chat.view.unfold_last, arguments, lambda: chat.branch.id
    )


def _root(environment: Environment) -> tuple[Path | None, str]:
    """Where conversations are kept, and why there is no such place."""
    try:
        return state_home(environment.variables), ""
    except NoHome as error:
        return None, str(error)


def _shown(
    environment: Environment,
    options: Options,
    config: Config,
    root: Path | None,
    modes: TerminalModes | None,
) -> tuple[Surface, View]:
    reasoning = options.reasoning or config.reasoning
    if modes is None:
        from cli.show.output import PlainOutput
        from cli.show.plain import PlainSurface
        from cli.show.plain_view import PlainView

        plain = PlainView(PlainOutput(environment), reasoning=reasoning)
        return PlainSurface(environment), plain
    from cli.show.renderer import MarkdownView
    from cli.show.screen.completion import Completions
    from cli.show.screen.terminal import TerminalSurface
    from cli.show.theme import theme_named

    theme = theme_named(options.theme or config.theme, environment.variables)
    surface = TerminalSurface(
        environment,
        theme,
        history=None if root is None else root / "history",
        completions=Completions({name: command.summary for name, command in COMMANDS.items()}),
        drafts=_drafts(root if options.keep else None),
        modes=modes,
        hint=HINT,
    )
    return surface, MarkdownView(surface, theme, reasoning=reasoning)


def _drafts(root: Path | None) -> "Drafts":
    from cli.show.screen.drafts import Drafts

    folder = None if root is None else root / "drafts"
    return Drafts(folder, working_folder())
