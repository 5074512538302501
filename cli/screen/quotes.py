'''Messages of several lines between """, where Enter only begins a new line.'''

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
