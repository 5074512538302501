"""Pictures of the terminal program for the README: `make screens` writes docs/screens/*.svg.

The real program runs on a pseudo-terminal and is typed at; what its screen then holds becomes an
SVG. Nothing is drawn by hand. In one picture nano answers, in the others a scripted engine, as nano
writes no code and changes no files.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

PICTURES = Path(__file__).parent / "screens"
COLUMNS, LINES = 80, 26
PATIENCE_S = 60.0

ANSWER = """\
<think>Only the end of the file is needed, so seek to it and read blocks backwards.
The last block may begin in the middle of a line.</think>\
Read **blocks from the end** until there are enough line breaks:

```python
def last_lines(path, count, block=1 << 16):
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        tail = b""
        while end > 0 and tail.count(b"\\n") <= count:
            start = max(0, end - block)
            file.seek(start)
            tail = file.read(end - start) + tail  # earlier text
            end = start
    return tail.splitlines()[-count:]
```

| file | read |
|:-----|-----:|
| 10 GB, short lines | 64 KiB |
| one endless line | all of it |
"""
LOOKING = {
    "text": "I look at what is there.",
    "tool_calls": [{"name": "run_command", "arguments": {"command": "git status --short"}}],
}


class Screen(pyte.Screen):
    """pyte's screen, which knows no dim text: here it is kept as blinking."""

    def select_graphic_rendition(self, *attributes: int, **more: Any) -> None:
        super().select_graphic_rendition(*(5 if value == 2 else value for value in attributes))


class Program:
    """`dsv4-chat` on a terminal."""

    def __init__(self, home: Path, script: dict[str, Any] | None, *options: str) -> None:
        """A program whose engine follows `script`, or with nano; `home` is where it runs."""
        arguments = ["-m", "cli", "--no-save", *options]
        if script is not None:
            (home / "scripted").write_text(json.dumps(script), encoding="utf-8")
            arguments += ["--engine", f"fake:{home}/scripted"]
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
        }
        self.screen = Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        self._child = pexpect.spawn(
            sys.executable, arguments, env=variables, cwd=str(home), dimensions=(LINES, COLUMNS)
        )

    def type(self, keys: str) -> None:
        self._child.send(keys)

    def wait_for(self, *texts: str) -> None:
        """Until all `texts` are on the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while not all(text in "\n".join(self.screen.display) for text in texts):
            if time.monotonic() > deadline:
                sys.exit(f"{texts} did not appear:\n" + "\n".join(self.screen.display))
            try:
                self._stream.feed(self._child.read_nonblocking(65536, timeout=1))
            except pexpect.TIMEOUT:
                continue

    def close(self) -> None:
        self._child.close(force=True)


@dataclass
class Scene:
    """What is typed, and what has to be seen before the picture is taken."""

    title: str
    script: dict[str, Any] | None
    play: Callable[[Program], None]
    options: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


def _answer(program: Program) -> None:
    program.type("How do I read the last lines of a huge file?\r")
    program.wait_for("endless line", "think low", "tok/s")


def _nano(program: Program) -> None:
    for line, seen in (
        ("Hello!", "tok/s"),
        ("/tools on", "calculator"),
        ("How much is 612 * 34?", "20808"),
    ):
        program.type(f"{line}\r")
        program.wait_for(seen)
        program.wait_for("\n> ")


def _reading(program: Program) -> None:
    program.type("@notes.txt what is this about?\r")
    program.wait_for("attached", "reading", "━━━━━━━━", "left")


def _tool(program: Program) -> None:
    program.type("/tools on\r")
    program.wait_for("run_command")
    program.type("what did I change?\r")
    program.wait_for("git status --short", "always")


SCENES = {
    "nano": Scene("nano, the model that comes along", None, _nano, ("--temp", "0")),
    "answer": Scene("an answer", {"replies": [{"text": ANSWER, "delay_ms": 2}]}, _answer),
    "reading": Scene(
        "a long file is read",
        {"replies": ["Done."], "prefill_ms": 150},
        _reading,
        files={"notes.txt": "A line of notes that goes on for a while.\n" * 1_200},
    ),
    "tool": Scene("a tool asks", {"replies": [LOOKING]}, _tool),
}


def picture(name: str, scene: Scene) -> str:
    """The SVG of one scene."""
    with tempfile.TemporaryDirectory(prefix="project-") as folder:
        for file, text in scene.files.items():
            (Path(folder) / file).write_text(text, encoding="utf-8")
        program = Program(Path(folder), scene.script, *scene.options)
        try:
            program.wait_for("> ")
            scene.play(program)
        finally:
            program.close()
    return svg(program.screen, scene.title, name)


def svg(screen: Screen, title: str, name: str) -> str:
    """A screen as rich draws it; no font is fetched from anywhere."""
    console = Console(
        file=StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="truecolor"
    )
    rows = [_row(screen, y) for y in range(screen.lines)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    for row in rows:
        console.print(row, no_wrap=True, overflow="crop", crop=False)
    drawn = console.export_svg(title=f"dsv4-chat: {title}", unique_id=name)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    return drawn.replace("Fira Code, monospace", "monospace")


def _row(screen: Screen, y: int) -> Text:
    cells = [screen.buffer[y][x] for x in range(screen.columns)]
    text = Text()
    # The second half of a wide character holds nothing.
    for style, run in groupby(cells, key=_style):
        text.append("".join(cell.data for cell in run), style)
    text.rstrip()
    return text


_PYTE_COLOURS = {"default": None, "brown": "yellow", "brightbrown": "bright_yellow"}


def _style(cell: pyte.screens.Char) -> Style:
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        dim=cell.blink,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _colour(name: str) -> str | None:
    if name in _PYTE_COLOURS:
        return _PYTE_COLOURS[name]
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return name.replace("bright", "bright_")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, scene in SCENES.items():
        file = PICTURES / f"{name}.svg"
        file.write_text(picture(name, scene), encoding="utf-8")
        print(file.relative_to(Path.cwd()))


if __name__ == "__main__":
    main()
