"""Whether the model may use tools now, and running those it calls."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Any

from cli.show.surface import Question
from cli.tools.background import Background
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.errors import Dsv4Error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cli.config_servers import Server
    from cli.tools.toolbox import Toolbox

    MakeToolbox = Callable[[Callable[[Question], str], Callable[[], bool]], Toolbox]


def toolbox_in(folder: "Path", servers: "Sequence[Server]") -> "MakeToolbox":
    """Makes the tools that work in `folder`, and those of `servers`."""

    def make(ask: Callable[[Question], str], stopped: Callable[[], bool]) -> "Toolbox":
        from cli.tools.toolbox import Toolbox

        return Toolbox(folder, ask, servers, stopped=stopped)

    return make


class ToolUse:
    """Off until it is turned on; then a toolbox is open until it is turned off.

    It opens on a thread of its own, since MCP servers may take long to start; what needs it waits.
    """

    def __init__(
        self,
        make: "MakeToolbox",
        ask: Callable[[Question], str],
        stopped: Callable[[], bool],
    ) -> None:
        self._make = make
        self._ask = ask
        self._stopped = stopped
        self._opening: Future[Toolbox] | None = None
        self._closing = Flag()
        self._told = False
        self.background = Background()
        """What the person's own commands left running."""

    def turn(self, on: bool) -> None:
        """Turn tools on or off."""
        if not on:
            self.close()
        elif self._opening is None:
            self._opening, self._closing, self._told = Future(), Flag(), False
            opening, closing = self._opening, self._closing

            def stopped() -> bool:
                return closing.is_set() or self._stopped()

            Thread(
                target=_settle, args=(opening, self._make, self._ask, stopped), daemon=True
            ).start()

    @property
    def is_starting(self) -> bool:
        """Whether tools are on and not there yet."""
        return self._opening is not None and not self._opening.done()

    def problems(self) -> list[str]:
        """What kept some of the tools from being there, once; waits for them."""
        if self._opening is None or self._told:
            return []
        toolbox = self._toolbox
        self._told = True
        return [] if toolbox is None else list(toolbox.problems())

    def definitions(self) -> tuple[dict[str, Any], ...]:
        """What the model is told."""
        toolbox = self._toolbox
        return tuple(toolbox.definitions()) if toolbox else ()

    def run(self, call: ToolCall) -> str:
        """The result of `call` for the model."""
        toolbox = self._toolbox
        if toolbox is None:
            return "Error: no tools are enabled in this conversation."
        if self._stopped():
            return "Error: the user stopped this."
        return toolbox.run(call)

    @property
    def _toolbox(self) -> "Toolbox | None":
        """What was made; raises, once, what kept it from being made."""
        opening = self._opening
        if opening is None:
            return None
        try:
            return opening.result()
        except Dsv4Error:
            self._opening = None
            raise

    def forget(self) -> list[str]:
        """Drop what was always allowed, and end what commands left running: another conversation
        begins. Sentences about what was ended."""
        ended = self.background.end()
        if self._opening is None or self.is_starting:
            return ended  # nothing was allowed and nothing ran yet
        toolbox = self._toolbox
        return ended if toolbox is None else [*ended, *toolbox.forget()]

    def leave(self) -> None:
        """End everything: the program ends."""
        self.background.end()
        self.close()

    def close(self) -> None:
        """End what runs for the model's tools, and what is starting."""
        opening, self._opening = self._opening, None
        if opening is None:
            return
        self._closing.set()
        with suppress(Dsv4Error):
            opening.result().close()


def _settle(
    opening: "Future[Toolbox]",
    make: "MakeToolbox",
    ask: Callable[[Question], str],
    stopped: Callable[[], bool],
) -> None:
    try:
        opening.set_result(make(ask, stopped))
    except BaseException as error:
        opening.set_exception(error)
