"""benchmarks/terminal.py still finds the program and the renderer that it measures."""

import pytest

from benchmarks import terminal


@pytest.mark.terminal
def test_the_program_is_measured_while_it_answers() -> None:
    assert len(terminal.key_to_echo(2)) == 2


WORDS = {"code": "value", "list": "item", "table": "three", "paragraph": "words"}


@pytest.mark.parametrize("shape", terminal.SHAPES)
def test_every_line_of_a_shape_is_drawn(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[terminal._Terminal] = []

    class Kept(terminal._Terminal):
        def __init__(self) -> None:
            super().__init__()
            drawings.append(self)

    monkeypatch.setattr(terminal, "_Terminal", Kept)
    terminal.renderer_seconds(terminal.SHAPES[shape](30))
    assert drawings[0]._file.getvalue().count(WORDS[shape]) == 30
