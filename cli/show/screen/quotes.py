'''Messages of several lines between """, where Enter only begins a new line.'''

from cli.show.screen.paste import Pastes, sendable
from cli.show.surface import Verbatim

_QUOTES = '"""'


def is_open(text: str) -> bool:
    """Whether `text` begins a block of quotes that it does not end."""
    begun = text.strip()
    if not begun.startswith(_QUOTES):
        return False
    return len(begun) < 2 * len(_QUOTES) or not begun.endswith(_QUOTES)


def unquoted(text: str) -> str:
    """The message inside a complete block of quotes; any other text as it is."""
    begun = text.strip()
    if not begun.startswith(_QUOTES) or is_open(text):
        return text
    return begun[len(_QUOTES) : -len(_QUOTES)].removeprefix("\n").removesuffix("\n")


def submitted(text: str, pastes: Pastes) -> str:
    """What is sent for the input `text`: a plain string where a typed character begins a command,
    else `Verbatim`."""
    if text.startswith(("/", "!")):
        return sendable(pastes.expand(text))
    return Verbatim(sendable(pastes.sent(unquoted(text))))
