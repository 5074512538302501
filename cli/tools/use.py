"""Whether the model may use tools now, and running those it calls."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cli.background import Background
from cli.surface import Question
from dsv4_mlx.chat.messages import ToolCall

if TYPE_CHECKING:
    from cli.tools.toolbox import Toolbox

    MakeToolbox = Callable[[Callable[[Question], str], Callable[[], bool]], Toolbox]


class ToolUse:
    """Off until it is turned on; then a toolbox is open until it is turned off."""

    def __init__(
        self,
        make: "MakeToolbox",
        ask: Callable[[Question], str],
        stopped: Callable[[], bool],
    ) -> None:
        self._make = make
        self._ask = ask
        self._stopped = stopped
        self._toolbox: Toolbox | None = None
        self.background = Background()
        """What the person's own commands left running."""

    def turn(self, on: bool) -> list[str]:
        """Turn tools on or off; what kept some of them from being there."""
        if not on:
            self.close()
        elif self._toolbox is None:
            self._toolbox = self._make(self._ask, self._stopped)
            return list(self._toolbox.problems())
        return []

    def definitions(self) -> tuple[dict[str, Any], ...]:
        """What the model is told."""
        return tuple(self._toolbox.definitions()) if self._toolbox else ()

    def names(self) -> list[str]:
        """What the model may use now."""
        return [definition["function"]["name"] for definition in self.definitions()]

    def run(self, call: ToolCall) -> str:
        """The result of `call` for the model."""
        if self._toolbox is None:
            return "Error: no tools are enabled in this conversation."
        if self._stopped():
            return "Error: the user stopped this."
        return self._toolbox.run(call)

    def forget(self) -> list[str]:
        """Drop what was always allowed, and end what commands left running: another conversation
        begins. Sentences about what was ended."""
        ended = self.background.end()
        return ended if self._toolbox is None else [*ended, *self._toolbox.forget()]

    def leave(self) -> None:
        """End everything: the program ends."""
        self.background.end()
        self.close()

    def close(self) -> None:
        """End what runs for the model's tools."""
        if self._toolbox is not None:
            self._toolbox.close()
            self._toolbox = None
