"""The small reliability diagram of a model's page, as SVG text."""

from __future__ import annotations

import numpy as np

from benchmark.report.evaluations import Evaluation
from benchmark.report.reliability import Reliability

SIZE, LEFT, TOP = 180, 46, 8
"""Of the square that is drawn in, in SVG units."""


def diagram_svg(evaluation: Evaluation, color: str) -> str:
    """Return a small reliability diagram as SVG text, drawn by hand because there are many.

    Args:
        evaluation: what to draw.
        color: of the model's mixer, as `#rrggbb`.
    """
    before, after = evaluation.before, evaluation.after
    ticks = "".join(
        f'<text x="{_x(v):.0f}" y="{TOP + SIZE + 15}" text-anchor="middle">{v:g}</text>'
        f'<text x="{LEFT - 5}" y="{_y(v) + 4:.0f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="240" height="228" viewBox="0 0 240 228" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" fill="#333">'
        f'<rect width="240" height="228" fill="white"/>'
        f'<polygon points="{_points(_band(before))}" fill="#ddd"/>'
        f'<g fill="{color}" fill-opacity="0.3">{_bars(before)}</g>'
        f'<path d="M{_x(0)},{_y(0)}L{_x(1)},{_y(1)}" stroke="#999" fill="none"/>'
        f'<path d="M{_x(0)},{_y(1)}V{_y(0)}H{_x(1)}" stroke="#666" fill="none"/>'
        f'<polyline points="{_points(_drawn(before))}" stroke="{color}" stroke-width="1.5" '
        f'fill="none"/>'
        f'<polyline points="{_points(_drawn(after))}" stroke="{color}" stroke-width="1.5" '
        f'stroke-dasharray="2 2" fill="none"/>'
        f'<g fill="{color}">{_circles(before)}</g>'
        f'<g fill="white" stroke="{color}">{_circles(after)}</g>'
        f"{ticks}"
        f'<text x="{_x(0.5):.0f}" y="{TOP + SIZE + 32}" text-anchor="middle">confidence</text>'
        f'<text transform="translate(12,{_y(0.5):.0f}) rotate(-90)" text-anchor="middle">'
        f"share right</text></svg>\n"
    )


def _drawn(values: Reliability) -> list[tuple[float, float]]:
    return [
        (float(values.confidence[i]), float(values.accuracy[i]))
        for i in np.flatnonzero(values.counts >= 5)
    ]


def _x(value: float) -> float:
    return LEFT + SIZE * value


def _y(value: float) -> float:
    return TOP + SIZE * (1 - value)


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{_x(confidence):.1f},{_y(share):.1f}" for confidence, share in pairs)


def _circles(values: Reliability) -> str:
    return "".join(
        f'<circle cx="{_x(c):.1f}" cy="{_y(a):.1f}" r="2.5"/>' for c, a in _drawn(values)
    )


def _band(values: Reliability) -> list[tuple[float, float]]:
    """Return the outline of the consistency band, there and back."""
    enough = np.flatnonzero(values.counts >= 5)
    there = [(values.confidence[i], values.band_low[i]) for i in enough]
    return there + [(values.confidence[i], values.band_high[i]) for i in enough[::-1]]


def _bars(values: Reliability) -> str:
    """Return a bar for each bin, four times as low as its share of the rows."""
    shares = values.counts / max(1, values.counts.sum())
    width = SIZE / len(shares)
    return "".join(
        f'<rect x="{_x(0) + (i + 0.05) * width:.1f}" y="{_y(share / 4):.1f}" '
        f'width="{0.9 * width:.1f}" height="{SIZE * share / 4:.1f}"/>'
        for i, share in enumerate(shares)
        if share > 0
    )
