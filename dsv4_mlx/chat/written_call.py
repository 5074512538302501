"""A tool call while it is being written: what the parser keeps of it from its marker to its end."""

from dsv4_mlx.chat.argument_stream import ArgumentStream
from dsv4_mlx.chat.markers import BODY, VALUE
from dsv4_mlx.chat.marks import spelled_out
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.schema import ToolSchemas
from dsv4_mlx.chat.tool_calls import lenient_call, read_name


class WrittenCall:
    """A call while it is being written: its text, and the same text taken apart."""

    def __init__(self, marker: str) -> None:
        self.raw = [marker.lstrip("\n")]
        self.head: list[str] = []
        self.parameters: list[list[str]] = []
        self.markers = BODY
        self.name = ""
        self.stream: ArgumentStream | None = None
        """Gives its arguments as they are written, once it has begun."""

    def text(self, text: str) -> str:
        """The piece of its arguments that `text` decides, as with what follows."""
        self.raw.append(text)
        if self.markers is VALUE:
            self.parameters[-1].append(text)
            return self.stream.add(spelled_out(text)) if self.stream else ""
        if not self.parameters:
            self.head.append(text)
        return ""

    def begin(self, schemas: ToolSchemas) -> bool:
        """Before its first parameter: give its arguments piece by piece, if it has a name."""
        self.name = read_name(spelled_out("".join(self.head)))[0]
        if self.name:
            self.stream = ArgumentStream(schemas.of(self.name))
        return bool(self.name)

    def parameter(self, marker: str) -> str:
        self.raw.append(marker)
        self.parameters.append([])
        self.markers = VALUE
        return self.stream.begin() if self.stream else ""

    def end_parameter(self, marker: str) -> str:
        self.raw.append(marker)
        self.markers = BODY
        return self.stream.end() if self.stream else ""

    def lacks_only_its_closing(self, rest: str) -> bool:
        """Whether its parameters are closed and `rest`, its last text, begins nothing else."""
        is_between = bool(self.parameters) and self.markers is BODY
        return is_between and (not rest.strip() or rest.startswith("</"))

    def read(self, schemas: ToolSchemas) -> ToolCall | None:
        """The call that it is, at its end; None for what is none."""
        raw = spelled_out("".join(self.raw))
        if self.stream is not None:
            return ToolCall(self.name, self.stream.json, raw=raw)
        parameters = [spelled_out("".join(parts)) for parts in self.parameters]
        return lenient_call(spelled_out("".join(self.head)), parameters, raw, schemas)
