"""A screen that keeps what scrolled off it and resizes as terminals do."""

import pyte

_HISTORY = 50_000


class Screen(pyte.HistoryScreen):
    """pyte's screen with a scrollback, and lines that wrap anew when it becomes narrower."""

    def __init__(self, columns: int, lines: int, *, reflows: bool = True) -> None:
        super().__init__(columns, lines, history=_HISTORY, ratio=0.5)
        self.reflows = reflows
        """False cuts long lines, as xterm does."""

    @property
    def rows(self) -> list[str]:
        """The lines on the screen, without trailing space."""
        return [line.rstrip() for line in self.display]

    @property
    def scrollback(self) -> list[str]:
        """The lines that scrolled off, oldest first."""
        return ["".join(row[x].data for x in range(_used(row))) for row in self.history.top]

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Keep the last rows and the cursor on the screen; what has no room scrolls off."""
        lines, columns = lines or self.lines, columns or self.columns
        cells = [_cells(self.buffer[y]) for y in range(self.lines)]
        last = max([self.cursor.y, *(y for y, row in enumerate(cells) if row)])
        rows, cursor = [], (0, 0)
        for y, row in enumerate(cells[: last + 1]):
            if y == self.cursor.y:
                below, x = divmod(self.cursor.x, columns) if self.reflows else (0, self.cursor.x)
                cursor = (len(rows) + below, min(x, columns - 1))
            rows += self._wrapped(row, columns)
        while len(rows) <= cursor[0]:
            rows.append([])
        self.buffer.clear()
        self.lines, self.columns = lines, columns
        self.set_margins()
        off = max(0, len(rows) - lines)
        for y, row in enumerate(rows):
            if y < off:
                self.history.top.append(dict(enumerate(row)))
            else:
                self.buffer[y - off].update(enumerate(row))
        self.cursor.y, self.cursor.x = cursor[0] - off, cursor[1]

    def _wrapped(self, row: list[pyte.screens.Char], columns: int) -> list[list[pyte.screens.Char]]:
        if not self.reflows or len(row) <= columns:
            return [row[:columns]]
        return [row[start : start + columns] for start in range(0, len(row), columns)]


def _used(row: dict[int, pyte.screens.Char]) -> int:
    return max((x + 1 for x, cell in row.items() if cell.data.strip()), default=0)


def _cells(row: dict[int, pyte.screens.Char]) -> list[pyte.screens.Char]:
    return [row[x] for x in range(_used(row))]
