"""Chips: pastes in the input, each one character that is drawn as a label."""

from collections.abc import Callable

from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments


class Chips(Processor):
    """Draws a label for each character that stands for a paste."""

    def __init__(self, label: Callable[[str], str | None]) -> None:
        self._label = label

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Longer fragments, and the positions that go with them."""
        given = explode_text_fragments(transformation_input.fragments)
        fragments: StyleAndTextTuples = []
        starts: list[int] = []
        position = 0
        for fragment in given:
            label = self._label(fragment[1])
            starts.append(position)
            if label is None:
                fragments.append(fragment)
            else:
                folded = " class:chip" if len(label) > 1 else ""
                fragments.append((fragment[0] + folded, label))
            position += len(fragment[1] if label is None else label)
        if fragments == given:
            return Transformation(transformation_input.fragments)
        starts.append(position)

        def to_display(index: int) -> int:
            last = len(starts) - 1
            return starts[index] if index <= last else starts[last] + index - last

        def to_source(index: int) -> int:
            before = [number for number, start in enumerate(starts) if start <= index]
            return before[-1] if before else 0

        return Transformation(fragments, to_display, to_source)
