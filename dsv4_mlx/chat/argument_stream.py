"""The arguments of a tool call as JSON text in pieces, while the model writes them.

A piece is given when nothing that follows can change it. A string goes out as it is written, where
its tool takes any string there; other values go out whole, when they are closed. A lone object that
may be all the arguments, see `tool_calls.is_wrapper`, waits for the end of the call. What a closed
call hands over is the text of all its pieces.

What was given cannot be taken back, so a call that has begun, with its name, is never read as text:

- A parameter that cannot be read, or comes a second time, is handed over as the text it is, under a
  name that no tool has (`UNREADABLE` and its number). The call stays valid JSON, nothing is lost,
  and a tool that looks at its arguments refuses them with a reason that the model understands.
- A call that the reply ends in, at its limit or because nobody wants more, stays open: the pieces
  are a beginning of JSON, and no ToolCall follows, since half a command must not run. It is no part
  of the answer's text either. Where the model itself ends its reply between two parameters, the
  call is closed.
"""

from itertools import count

from dsv4_mlx.chat.messages import to_json
from dsv4_mlx.chat.schema import Schema
from dsv4_mlx.chat.tool_calls import (
    Written,
    is_wrapper,
    may_wrap,
    read_parameter,
    read_value,
    string_begins,
    unwrapped,
)

UNREADABLE = "unreadable parameter"
_LONGEST_NAME = 400
"""Characters after which a parameter that did not begin in the release's form is awaited whole."""


class ArgumentStream:
    """Takes the parameters of one call to a tool whose arguments `schema` describes."""

    def __init__(self, schema: Schema | None) -> None:
        self._schema = schema
        self._given: list[str] = []
        self._names: set[str] = set()
        self._wrapper: Written | None = None
        self._held: list[str] = []
        self._size = 0
        self._is_open = False  # inside a string that goes out as it comes

    @property
    def json(self) -> str:
        """All that was given."""
        return "".join(self._given)

    def begin(self) -> str:
        """A parameter begins; the piece that this decides, as with all that follow."""
        wrapper, self._wrapper = self._wrapper, None
        self._held, self._size, self._is_open = [], 0, False
        return "" if wrapper is None else self._give(self._member(*wrapper))

    def add(self, text: str) -> str:
        """The parameter goes on with `text`, its attributes first."""
        if self._is_open:
            return self._give(_inside(text))
        self._held.append(text)
        self._size += len(text)
        if ">" not in text or self._size - len(text) > _LONGEST_NAME:
            return ""
        found = string_begins("".join(self._held))
        if found is None or not self._takes_strings(found[0]):
            return ""
        name, value = found
        self._is_open = True
        return self._give(f'{self._key(name)}"{_inside(value)}')

    def end(self) -> str:
        """The parameter is closed."""
        if self._is_open:
            return self._give('"')
        text = "".join(self._held)
        written = read_parameter(text)
        if written is None or written[0] in self._names:
            return self._give(self._key(self._spare_name()) + to_json(text))
        if not self._names and is_wrapper(*written[::2], self._schema):
            self._wrapper = written
            return ""
        return self._give(self._member(*written))

    def close(self) -> str:
        """The call is closed."""
        if self._wrapper is not None:
            return self._give(unwrapped(self._wrapper[2], self._schema))
        return self._give("}" if self._given else "{}")

    def _takes_strings(self, name: str) -> bool:
        if name in self._names:
            return False
        if not self._names and may_wrap(name, self._schema):
            return False
        schema = self._schema and self._schema.property(name)
        return schema is None or schema.allows_any_string

    def _spare_name(self) -> str:
        return next(
            name for number in count(1) if (name := f"{UNREADABLE} {number}") not in self._names
        )

    def _member(self, name: str, kind: str | None, text: str) -> str:
        schema = self._schema and self._schema.property(name)
        return self._key(name) + read_value(text, kind, schema)

    def _key(self, name: str) -> str:
        self._names.add(name)
        return f"{', ' if self._given else '{'}{to_json(name)}: "

    def _give(self, piece: str) -> str:
        self._given.append(piece)
        return piece


def _inside(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return to_json(text)[1:-1]
