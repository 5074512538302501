"""Which keys do what at the prompt; all else is prompt-toolkit's Emacs keys."""

from typing import Protocol

from prompt_toolkit.buffer import Buffer, CompletionState
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.filters import Condition, has_focus, is_searching
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

KEYS = (
    ("Enter", "send"),
    ("Alt-Enter, Esc Enter, Ctrl-J", "a new line"),
    ("Tab", "complete a command, an argument or a path"),
    ("Up, Down", "what was sent before; at an empty prompt, take back what waits"),
    ("Ctrl-R", "search what was sent before"),
    ("Shift-Tab", "the next thinking level"),
    ("Ctrl-O", "show the last reasoning in full"),
    ("Ctrl-X Ctrl-E", "write in $VISUAL or $EDITOR"),
    ("Ctrl-C", "stop the answer; clear the line; twice at an empty prompt, leave"),
    ("Ctrl-D", "leave, at an empty prompt"),
)
"""For help pages."""


class Actions(Protocol):
    """What the keys set off."""

    def submit(self) -> None:
        """Send what is typed, or go on in an open block of quotes."""
        ...

    def interrupt(self) -> None:
        """Ctrl-C."""
        ...

    def can_leave(self) -> bool:
        """Ctrl-D leaves."""
        ...

    def leave(self) -> None:
        """Ctrl-D at an empty prompt."""
        ...

    def paste(self, text: str) -> None:
        """Text that the terminal marks as pasted."""
        ...

    def can_take_back(self) -> bool:
        """Something waits and the input is empty."""
        ...

    def take_back(self) -> None:
        """Put what waits last back into the input."""
        ...

    def cycle_mode(self) -> None:
        """Shift-Tab."""
        ...

    def unfold(self) -> None:
        """Ctrl-O."""
        ...

    def edit_externally(self) -> None:
        """Ctrl-X Ctrl-E."""
        ...

    def suspend(self) -> None:
        """Ctrl-Z."""
        ...

    def is_asking(self) -> bool:
        """A question waits for a key."""
        ...

    def answer(self, key: str) -> None:
        """A key while a question waits; Enter is ""."""
        ...


def key_bindings(actions: Actions, buffer: Buffer) -> KeyBindings:
    """The prompt's own keys."""
    keys = KeyBindings()
    _bind_completion(keys, buffer)
    _bind_input(keys, actions, buffer)  # of two that apply the later one is called
    _bind_question(keys, actions)
    return keys


def _bind_input(keys: KeyBindings, actions: Actions, buffer: Buffer) -> None:
    typing = has_focus(buffer)
    chosen = Condition(lambda: _has_choice(buffer))

    @keys.add("enter", filter=typing & ~chosen)
    def _(event: KeyPressEvent) -> None:
        actions.submit()

    @keys.add("enter", filter=typing & chosen)
    def _(event: KeyPressEvent) -> None:
        buffer.complete_state = None  # what is chosen is in the text already

    @keys.add("escape", "enter", filter=typing)
    @keys.add("c-j", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer.newline(copy_margin=False)

    @keys.add("c-c", filter=~is_searching)
    @keys.add(Keys.SIGINT)
    def _(event: KeyPressEvent) -> None:
        actions.interrupt()

    @keys.add("c-d", filter=typing & Condition(actions.can_leave))
    def _(event: KeyPressEvent) -> None:
        actions.leave()

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _(event: KeyPressEvent) -> None:
        actions.paste(event.data)

    @keys.add("up", filter=typing & Condition(actions.can_take_back))
    def _(event: KeyPressEvent) -> None:
        actions.take_back()

    @keys.add("c-o")
    def _(event: KeyPressEvent) -> None:
        actions.unfold()

    @keys.add("c-x", "c-e", filter=typing)
    def _(event: KeyPressEvent) -> None:
        actions.edit_externally()

    @keys.add("s-tab", filter=typing & ~Condition(lambda: _has_menu(buffer)))
    def _(event: KeyPressEvent) -> None:
        actions.cycle_mode()

    @keys.add("c-z")
    def _(event: KeyPressEvent) -> None:
        actions.suspend()


def _bind_completion(keys: KeyBindings, buffer: Buffer) -> None:
    typing = has_focus(buffer)
    menu = Condition(lambda: _has_menu(buffer))
    looking = Condition(lambda: buffer.complete_state is not None and not _has_menu(buffer))

    # While it looks for candidates prompt-toolkit moves in a menu that has none yet.
    @keys.add("up", filter=typing & looking)
    def _(event: KeyPressEvent) -> None:
        buffer.complete_state = None
        buffer.auto_up(event.arg)

    @keys.add("down", filter=typing & looking)
    def _(event: KeyPressEvent) -> None:
        buffer.complete_state = None
        buffer.auto_down(event.arg)

    @keys.add("tab", filter=typing)
    def _(event: KeyPressEvent) -> None:
        _complete(buffer)

    @keys.add("s-tab", filter=typing & menu)
    def _(event: KeyPressEvent) -> None:
        buffer.complete_previous()

    @keys.add("escape", filter=typing & menu)
    def _(event: KeyPressEvent) -> None:
        buffer.cancel_completion()


def _bind_question(keys: KeyBindings, actions: Actions) -> None:
    asking = Condition(actions.is_asking)

    # Eager, since every key that is no answer must do nothing at all.
    @keys.add(Keys.Any, filter=asking, eager=True)
    def _(event: KeyPressEvent) -> None:
        actions.answer(event.data)

    @keys.add(Keys.BracketedPaste, filter=asking, eager=True)
    def _(event: KeyPressEvent) -> None:
        actions.paste(event.data)  # text for the input, and no answer

    @keys.add("enter", filter=asking, eager=True)
    @keys.add("escape", filter=asking, eager=True)
    @keys.add("c-d", filter=asking, eager=True)
    def _(event: KeyPressEvent) -> None:
        actions.answer("")

    @keys.add("c-c", filter=asking, eager=True)
    @keys.add(Keys.SIGINT, filter=asking, eager=True)
    def _(event: KeyPressEvent) -> None:
        actions.interrupt()

    @keys.add("c-z", filter=asking, eager=True)
    def _(event: KeyPressEvent) -> None:
        actions.suspend()


def _complete(buffer: Buffer) -> None:
    """The next candidate of an open menu; else what all candidates share, or a menu of them.

    prompt-toolkit would ignore the key while it still looks for candidates after the last letter.
    """
    state = buffer.complete_state
    if state is not None and len(state.completions) > 1:
        buffer.complete_next()
        return
    document = buffer.document
    found = list(
        buffer.completer.get_completions(document, CompleteEvent(completion_requested=True))
    )
    shared = get_common_complete_suffix(document, found)
    if len(found) == 1:
        buffer.apply_completion(found[0])
    elif shared:
        buffer.insert_text(shared)
    elif found:
        buffer.complete_state = CompletionState(document, found)
        buffer.go_to_completion(0)


def _has_menu(buffer: Buffer) -> bool:
    """Candidates are shown."""
    state = buffer.complete_state
    return state is not None and bool(state.completions)


def _has_choice(buffer: Buffer) -> bool:
    """A candidate of the menu is chosen."""
    state = buffer.complete_state
    return state is not None and state.complete_index is not None
