"""What stands below the finished text of a terminal, as the layout asks for it at each redraw."""

from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import StyleAndTextTuples

from cli.show.screen.drawing import Drawing, Fragments
from cli.show.screen.frames import Frames
from cli.show.screen.prompt import PromptInput
from cli.show.screen.status import status_line
from cli.show.screen.terminal_output import TerminalOutput
from cli.show.surface import Status


class Picture:
    """Implements `Shown`; all of it on the thread that draws."""

    def __init__(
        self,
        prompt: PromptInput,
        frames: Frames,
        output: TerminalOutput,
        drawing: Drawing,
        *,
        blocks: bool,
    ) -> None:
        """`drawing` draws live text; with `blocks` the status line may use block characters."""
        self.status = Status("", "")
        self._prompt = prompt
        self._frames = frames
        self._output = output
        self._drawing = drawing
        self._blocks = blocks
        self._cells: list[Fragments] = []
        self._cells_for: tuple[object, Size | None] = (None, None)

    @property
    def size(self) -> Size:
        """Of the terminal."""
        return self._output.size

    def live_lines(self) -> list[Fragments]:
        """The answer that is coming, as many lines as a screen holds."""
        live, size = self._frames.live, self.size
        if self._cells_for[0] is not live or self._cells_for[1] != size:
            self._cells_for = (live, size)
            drawn = self._drawing.cells(live, size.columns, size.rows) if live is not None else []
            self._cells = drawn
        return self._cells

    def queued(self) -> list[str]:
        """What was sent ahead and waits."""
        return [self._prompt.pastes.labels(text) for text in self._prompt.submissions.waiting()]

    def question(self) -> StyleAndTextTuples:
        """What has to be decided; empty while nothing does."""
        return self._prompt.question()

    def status_fragments(self, width: int) -> StyleAndTextTuples:
        """One line."""
        if self._prompt.hint:
            return [("class:note", self._prompt.hint)]
        parts = status_line(self.status, width, blocks=self._blocks)
        return [(f"class:{role}", text) for role, text in parts]
