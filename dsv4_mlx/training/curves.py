"""Curves of a training run as SVG files, drawn without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 48
# Distinct for eyes that see few colours (Okabe and Ito), and on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MOST_POINTS = 600


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart, from `low` to `high`."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next((f for f in (1, 2, 5) if (high - low) / (step * f) <= about), 10)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` finite points: means of neighbours where there are more."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(finite) // most))
    groups = (finite[start : start + size] for start in range(0, len(finite), size))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def write_line_plot(
    path: Path, series: Mapping[str, Points], *, title: str, across: str, up: str
) -> None:
    """Write lines through the points of each of `series` (name -> (x, y) ...) with axes and names.

    Points that are not finite are left out; without any, the axes stand alone.
    """
    path.write_text(line_plot(series, title=title, across=across, up=up), encoding="utf-8")


def line_plot(series: Mapping[str, Points], *, title: str, across: str, up: str) -> str:
    """The SVG text that `write_line_plot` writes."""
    lines = {name: thinned(points) for name, points in series.items()}
    every = [point for points in lines.values() for point in points] or [(0.0, 0.0)]
    x_range = _range([x for x, _ in every])
    y_range = _range([y for _, y in every])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_WIDTH / 2, 22, title, "middle", size=15),
        *_axes(x_range, y_range),
        _text(_WIDTH / 2, _HEIGHT - 10, across, "middle"),
        f'<g transform="translate(16 {_HEIGHT / 2}) rotate(-90)">{_text(0, 0, up, "middle")}</g>',
    ]
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        at = " ".join(f"{_x(x, x_range):.1f},{_y(y, y_range):.1f}" for x, y in points)
        parts.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(_text(_WIDTH - _RIGHT, _TOP + 14 + 16 * number, name, "end", fill=colour))
    return "\n".join([*parts, "</svg>\n"])


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _x(value: float, span: tuple[float, float]) -> float:
    return _LEFT + (value - span[0]) / (span[1] - span[0]) * (_WIDTH - _LEFT - _RIGHT)


def _y(value: float, span: tuple[float, float]) -> float:
    return _HEIGHT - _BOTTOM - (value - span[0]) / (span[1] - span[0]) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> list[str]:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for value in ticks(*y_range):
        y = _y(value, y_range)
        end = _WIDTH - _RIGHT
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{end}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{value:.6g}", "end"))
    for value in ticks(*x_range):
        x = _x(value, x_range)
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="#444444"/>')
        parts.append(_text(x, bottom + 18, f"{value:.6g}", "middle"))
    parts.append(
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="#444"/>'
    )
    return parts


def _text(
    x: float, y: float, text: str, anchor: str, *, size: int = 12, fill: str = "#222222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
