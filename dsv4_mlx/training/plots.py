"""Small SVG pictures of measurements: curves and bars, mean and range over seeds.

The text of a picture depends on its numbers alone, so the same measurement gives the same file. A
picture brings its own background, in a light and a dark form; `PALETTE` has both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
_LEFT, _RIGHT, _BOTTOM, _LINE = 72, 24, 52, 20
_LETTER = 7.0  # px, the mean width of a letter at 13 px
_BAR, _BARS_END, _DASHES = 26, 480, ("", "7 4", "2 3", "10 3 2 3", "14 4", "1 5")

PALETTE = {
    "light": {
        "paper": "#ffffff", "ink": "#24292f", "quiet": "#57606a", "grid": "#d8dee4",
        "s0": "#1f6fd1", "s1": "#b84c00", "s2": "#15784d", "s3": "#8340bf", "s4": "#b0246a",
        "s5": "#5f6400",
    },
    "dark": {
        "paper": "#16191d", "ink": "#e6e8eb", "quiet": "#a3abb5", "grid": "#343a42",
        "s0": "#6cb0ff", "s1": "#ff9d4d", "s2": "#4fcf9a", "s3": "#c79bff", "s4": "#ff8fbf",
        "s5": "#cdd24f",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A line: for every x the values of all runs that have one, as `(x, (value, ...))`."""

    label: str
    points: Sequence[tuple[float, Sequence[float]]]


@dataclass(frozen=True)
class Bar:
    """A bar: the values of all runs, and what to say beside them."""

    label: str
    values: Sequence[float]
    note: str = ""


@dataclass(frozen=True)
class _Scale:
    """Values to pixels, and the values worth a line."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def line_plot(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """SVG text of curves over a common x: the mean as a line, the range of runs as a band.

    Values that are not finite are left out. ValueError when nothing is left to draw.
    """
    drawn = [(curve.label, _finite(curve.points)) for curve in curves]
    drawn = [(label, points) for label, points in drawn if points]
    legend, top = _legend([label for label, _ in drawn])
    every = [(x, y) for _, points in drawn for x, values in points for y in values]
    x = _scale([x for x, _ in every], _LEFT, WIDTH - _RIGHT, round_up=False)
    y = _scale([y for _, y in every], HEIGHT - _BOTTOM, top)
    body = [*_grid(x, y, top), *_axis_names(x_label, y_label, top), *legend]
    for number, (_, points) in enumerate(drawn):
        body += _curve(points, x, y, number)
    return _picture(title, body, HEIGHT)


def bar_plot(title: str, value_label: str, bars: Sequence[Bar]) -> str:
    """SVG text of horizontal bars from zero: the mean as a bar, the range of runs as a whisker.

    The label stands above its bar, mean and range after it. ValueError without a finite value.
    """
    drawn = [(bar, [value for value in bar.values if math.isfinite(value)]) for bar in bars]
    drawn = [(bar, values) for bar, values in drawn if values]
    scale = _scale(
        [0.0, *(v for _, values in drawn for v in values)] if drawn else [], 24, _BARS_END
    )
    top, each = 48, _BAR + _LINE + 8
    bottom = top + each * len(drawn)
    body = []
    for tick in scale.ticks():
        body.append(_line(scale(tick), top, scale(tick), bottom, "grid"))
        body.append(_text(scale(tick), bottom + 18, _number(tick), "quiet", "middle"))
    body.append(_text((24 + _BARS_END) / 2, bottom + 40, value_label, "ink", "middle"))
    for number, (bar, values) in enumerate(drawn):
        body += _bar(bar, values, scale, top + each * number, number)
    return _picture(title, body, bottom + 56)


def _bar(bar: Bar, values: list[float], scale: _Scale, top: float, number: int) -> list[str]:
    mean, low, high = sum(values) / len(values), min(values), max(values)
    left, right = sorted((scale(0.0), scale(mean)))
    middle = top + _LINE + _BAR / 2
    series = f"s{number % len(_DASHES)}"
    said = _number(mean) + (f" ({_number(low)} to {_number(high)})" if len(values) > 1 else "")
    parts = [
        _text(scale(0.0) + 2, top + 14, bar.label, "ink"),
        f'<rect class="fill {series}" x="{left:.1f}" y="{top + _LINE:.1f}" '
        f'width="{max(right - left, 1):.1f}" height="{_BAR}"/>',
        _text(max(scale(high), right) + 8, middle + 5, " ".join(filter(None, [said, bar.note]))),
    ]
    if low < high:
        parts += [_line(scale(low), middle, scale(high), middle, "whisker")]
        parts += [_line(scale(v), middle - 6, scale(v), middle + 6, "whisker") for v in (low, high)]
    return parts


def _finite(points: Iterable[tuple[float, Sequence[float]]]) -> list[tuple[float, list[float]]]:
    kept = [(x, [y for y in values if math.isfinite(y)]) for x, values in points]
    return [(x, values) for x, values in kept if values]


def _scale(values: Sequence[float], start: float, stop: float, *, round_up: bool = True) -> _Scale:
    """A scale over all values, its ends at whole steps where `round_up`."""
    if not values:
        raise ValueError("A picture needs at least one finite value, and was given none.")
    low, high = min(values), max(values)
    if low == high:
        low, high = low - abs(low) / 2 - (low == 0), high + abs(high) / 2 + (high == 0)
    if round_up:
        step = _step(high - low)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return _Scale(low, high, start, stop)


def _step(span: float) -> float:
    """The 1, 2 or 5 times a power of ten that cuts `span` into four to nine parts."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (5, 2, 1) if power * factor <= span / 4 * (1 + 1e-9))


def _curve(points: list[tuple[float, list[float]]], x: _Scale, y: _Scale, number: int) -> list[str]:
    series, dash = f"s{number % len(_DASHES)}", _DASHES[number % len(_DASHES)]
    mean = " ".join(f"{x(at):.1f},{y(sum(v) / len(v)):.1f}" for at, v in points)
    upper = [f"{x(at):.1f},{y(max(values)):.1f}" for at, values in points]
    lower = [f"{x(at):.1f},{y(min(values)):.1f}" for at, values in reversed(points)]
    parts = []
    if any(len(values) > 1 for _, values in points):
        parts.append(f'<polygon class="band {series}" points="{" ".join(upper + lower)}"/>')
    parts.append(f'<polyline class="line {series}" stroke-dasharray="{dash}" points="{mean}"/>')
    if len(points) == 1:
        at, values = points[0]
        centre = f'cx="{x(at):.1f}" cy="{y(sum(values) / len(values)):.1f}"'
        parts.append(f'<circle class="fill {series}" {centre} r="3"/>')
    return parts


def _legend(labels: Sequence[str]) -> tuple[list[str], float]:
    """Names of the lines under the title, and where the plot begins below them."""
    parts, left, row = [], float(_LEFT), 0
    for number, label in enumerate(labels):
        width = 40 + _LETTER * len(label) + 16
        if left > _LEFT and left + width > WIDTH - _RIGHT:
            left, row = float(_LEFT), row + 1
        y, series = 46 + row * _LINE, f"s{number % len(_DASHES)}"
        dash = _DASHES[number % len(_DASHES)]
        parts.append(
            f'<line class="line {series}" stroke-dasharray="{dash}" '
            f'x1="{left:.1f}" y1="{y}" x2="{left + 32:.1f}" y2="{y}"/>'
        )
        parts.append(_text(left + 40, y + 4, label))
        left += width
    return parts, 64 + row * _LINE


def _grid(x: _Scale, y: _Scale, top: float) -> list[str]:
    parts = []
    for tick in y.ticks():
        parts.append(_line(_LEFT, y(tick), WIDTH - _RIGHT, y(tick), "grid"))
        parts.append(_text(_LEFT - 8, y(tick) + 4, _number(tick), "quiet", "end"))
    for tick in x.ticks():
        parts.append(_line(x(tick), top, x(tick), HEIGHT - _BOTTOM, "grid"))
        parts.append(_text(x(tick), HEIGHT - _BOTTOM + 18, _number(tick), "quiet", "middle"))
    return parts


def _axis_names(x_label: str, y_label: str, top: float) -> list[str]:
    middle = (top + HEIGHT - _BOTTOM) / 2
    turned = _text(0, 0, y_label, "ink", "middle").replace(
        'x="0.0" y="0.0"', f'transform="translate(20 {middle:.1f}) rotate(-90)"'
    )
    return [_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 12, x_label, "ink", "middle"), turned]


def _picture(title: str, body: Sequence[str], height: float) -> str:
    name = escape(title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-label="{name}">',
        f"<title>{name}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height:.0f}" rx="6"/>',
        f'<text class="ink title" x="24.0" y="26.0">{name}</text>',
    ]
    return "\n".join([*lines, *body, "</svg>", ""])


def _style() -> str:
    shape = (
        "text{font:13px system-ui,sans-serif}.title{font-weight:600;font-size:15px}"
        ".grid,.whisker{stroke-width:1}.line{fill:none;stroke-width:2}.band{fill-opacity:.18}"
    )
    light, dark = (_colours(PALETTE[name]) for name in ("light", "dark"))
    return f"{shape}{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _colours(palette: dict[str, str]) -> str:
    fixed = "".join(f".{name}{{fill:{palette[name]}}}" for name in ("paper", "ink", "quiet"))
    series = [name for name in palette if name[0] == "s"]
    lines = "".join(f".line.{name}{{stroke:{palette[name]}}}" for name in series)
    areas = "".join(f".band.{name},.fill.{name}{{fill:{palette[name]}}}" for name in series)
    return (
        f"{fixed}.grid{{stroke:{palette['grid']}}}.whisker{{stroke:{palette['ink']}}}{lines}{areas}"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "ink", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(text)}</text>'


def _number(value: float) -> str:
    """At most four digits; thousands with a comma."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value + 0.0:.4g}"  # no minus before a zero
