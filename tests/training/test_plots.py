"""Pictures of measurements: what they show is in them as text, inside the frame, and readable."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest

from dsv4_mlx.training.plots import PALETTE, WIDTH, Bar, Curve, bar_plot, line_plot

SVG = "{http://www.w3.org/2000/svg}"
SEEDS = Curve("with <tables>", [(0, (4.0, 5.0)), (10, (3.0, 3.5)), (20, (2.0, 2.25))])
ALONE = Curve("without", [(0, (4.5,)), (20, (3.75,))])


def lines() -> str:
    return line_plot("Loss & steps", "step", "loss, nats", [SEEDS, ALONE])


def bars() -> str:
    return bar_plot("Recall", "share", [Bar("with", (0.9, 0.96)), Bar("without", (0.5,), "1 run")])


def said(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def drawn(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    """The points of every shape of this kind."""
    found = ElementTree.fromstring(svg).iter(SVG + kind)
    return [
        [tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split()]
        for shape in found
    ]


def test_title_axes_and_names_are_text() -> None:
    assert {"Loss & steps", "step", "loss, nats", "with <tables>", "without"} <= set(said(lines()))
    assert {"Recall", "share", "with", "without", "0.93 (0.9 to 0.96)", "0.5 1 run"} <= set(
        said(bars())
    )


def test_the_band_is_the_range_of_the_runs_and_the_line_their_mean() -> None:
    (band,) = drawn(lines(), "polygon")
    mean, _ = drawn(lines(), "polyline")
    upper, lower = band[:3], band[:2:-1]
    for high, middle, low in zip(upper, mean, lower, strict=True):
        assert high[0] == middle[0] == low[0]
        assert high[1] < middle[1] < low[1]  # y grows downwards
        assert middle[1] == pytest.approx((high[1] + low[1]) / 2, abs=0.1)


def test_pixels_are_proportional_to_values() -> None:
    mean, _ = drawn(lines(), "polyline")
    (_, first), (_, second), (_, third) = mean  # 4.5, 3.25, 2.125
    assert (second - first) / (third - second) == pytest.approx(1.25 / 1.125, rel=0.01)


@pytest.mark.parametrize("picture", [lines, bars])
def test_everything_stays_inside_the_frame(picture: Callable[[], str]) -> None:
    root = ElementTree.fromstring(picture())
    height = float(root.attrib["height"])
    for element in root.iter():
        for key, limit in (("x", WIDTH), ("x1", WIDTH), ("x2", WIDTH), ("y", height)):
            assert 0 <= float(element.attrib.get(key, 0)) <= limit
    for points in (*drawn(picture(), "polyline"), *drawn(picture(), "polygon")):
        assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in points)


def test_long_legends_go_on_in_another_row() -> None:
    curves = [Curve(f"a rather long name of a line {n}", [(0, (1.0,))]) for n in range(5)]
    root = ElementTree.fromstring(line_plot("Many", "x", "y", curves))
    names = [text for text in root.iter(f"{SVG}text") if "rather" in (text.text or "")]
    assert len({text.attrib["y"] for text in names}) > 1
    assert all(float(text.attrib["x"]) + 7 * len(text.text) <= WIDTH for text in names)


def test_values_that_are_not_finite_are_left_out() -> None:
    holed = Curve("a", [(0, (1.0, float("nan"))), (1, (float("inf"),)), (2, (3.0,))])
    assert drawn(line_plot("t", "x", "y", [holed]), "polyline") == drawn(
        line_plot("t", "x", "y", [Curve("a", [(0, (1.0,)), (2, (3.0,))])]), "polyline"
    )
    for draw in (
        lambda: line_plot("t", "x", "y", [Curve("a", [(0, (float("nan"),))])]),
        lambda: bar_plot("t", "x", []),
    ):
        with pytest.raises(ValueError, match="at least one finite value"):
            draw()


@pytest.mark.parametrize("value", [0.0, -2.5, 1e-6, 123456.0])
def test_one_value_alone_can_be_drawn(value: float) -> None:
    ElementTree.fromstring(line_plot("t", "x", "y", [Curve("a", [(0, (value,))])]))
    ElementTree.fromstring(bar_plot("t", "x", [Bar("a", (value, value))]))


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert lines() == lines() and bars() == bars()


@pytest.mark.parametrize("theme", PALETTE)
def test_every_colour_can_be_read_on_its_paper(theme: str) -> None:
    """Contrast as WCAG 2 defines it: 4.5 for text, 3 for shapes that carry meaning."""
    colours = PALETTE[theme]
    for name, colour in colours.items():
        needed = {"paper": 1, "grid": 1.2, "ink": 4.5, "quiet": 4.5}.get(name, 3)
        assert contrast(colour, colours["paper"]) >= needed, name
        assert colour in lines()


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
