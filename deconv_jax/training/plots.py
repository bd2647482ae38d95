"""Plots as data, and the one place that draws them: points and lines on two linear axes, by Pillow alone."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 800, 600
"""Of a drawn plot, pixels."""
COLORS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#7f7f7f",
    "#bcbd22",
    "#17becf",
)
"""Of series, in their order; those after the tenth begin again."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 66, 20, 50
_TEXT, _TICK, _MARGIN = 15, 5, 0.04
_STEPS = 7
"""Of an axis from tick to tick, at most."""
_OVERSAMPLED = 3
"""Pixels a side that each of the picture's is the mean of: Pillow's discs have no smooth edge."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Points of one colour.

    Attributes:
      x, y: of each point; those that are not finite are not drawn.
      name: in the legend, unless "".
      joined: by a line, in their order.
    """

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    name: str = ""
    joined: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Plot:
    """What is drawn.

    Attributes:
      title, x_name, y_name: what it says.
      series: the later over the earlier.
      equal_units: a unit is as long along either axis.
    """

    title: str
    x_name: str
    y_name: str
    series: Sequence[Series]
    equal_units: bool = False


def draw(plot: Plot) -> Image.Image:
    """The plot as an RGB picture of `WIDTH` x `HEIGHT` pixels."""
    big = _OVERSAMPLED
    picture = Image.new("RGB", (WIDTH * big, HEIGHT * big), "white")
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=_TEXT * big)

    def text(x: float, y: float, words: str, anchor: str) -> None:
        canvas.text((x * big, y * big), words, fill="black", font=font, anchor=anchor)

    def line(*points: tuple[float, float], color: str, width: float = 1) -> None:
        scaled = [(x * big, y * big) for x, y in points]
        canvas.line(scaled, fill=color, width=round(width * big), joint="curve")

    drawn = [_finite(series) for series in plot.series]
    names = [(s.name, COLORS[i % len(COLORS)]) for i, s in enumerate(plot.series) if s.name]
    legend = max((font.getlength(name) / big + 40 for name, _ in names), default=0.0)
    right, bottom = WIDTH - _RIGHT - legend, HEIGHT - _BOTTOM
    (x0, x1), (y0, y1) = _limits([p[:, 0] for p in drawn]), _limits([p[:, 1] for p in drawn])
    if plot.equal_units:
        unit = max((x1 - x0) / (right - _LEFT), (y1 - y0) / (bottom - _TOP))
        x0, x1 = _widened(x0, x1, unit * (right - _LEFT))
        y0, y1 = _widened(y0, y1, unit * (bottom - _TOP))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return _LEFT + across * (right - _LEFT), bottom - up * (bottom - _TOP)

    text(_LEFT, 8, plot.title, "la")
    text(_LEFT, _TOP - 8, plot.y_name, "ls")
    text((_LEFT + right) / 2, HEIGHT - 8, plot.x_name, "ms")
    for value, label in _ticks(x0, x1):
        x, _ = place(value, y0)
        line((x, _TOP), (x, bottom), color="#e6e6e6")
        line((x, bottom), (x, bottom + _TICK), color="black")
        text(x, bottom + _TICK + 2, label, "ma")
    for value, label in _ticks(y0, y1):
        _, y = place(x0, value)
        line((_LEFT, y), (right, y), color="#e6e6e6")
        line((_LEFT - _TICK, y), (_LEFT, y), color="black")
        text(_LEFT - _TICK - 3, y, label, "rm")
    corners = [(_LEFT, _TOP), (right, _TOP), (right, bottom), (_LEFT, bottom), (_LEFT, _TOP)]
    line(*corners, color="black")

    for number, (series, points) in enumerate(zip(plot.series, drawn, strict=True)):
        color = COLORS[number % len(COLORS)]
        places = [place(x, y) for x, y in points]
        if series.joined and len(places) > 1:
            line(*places, color=color, width=2)
        radius = big * (3.5 if len(points) < 50 else 2.0)
        for x, y in places:
            canvas.circle((x * big, y * big), radius, fill=color)
    for row, (name, color) in enumerate(names):
        y = _TOP + 12 + 22 * row
        canvas.circle(((right + 18) * big, y * big), 5 * big, fill=color)
        text(right + 30, y, name, "lm")
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)


def _finite(series: Series) -> np.ndarray:
    """(points, 2) of those that can be drawn."""
    points = np.stack([series.x, series.y], axis=-1).astype(np.float64)
    return points[np.isfinite(points).all(axis=-1)]


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of an axis: of all values, and a little more; (0, 1) if there are none."""
    everything = np.concatenate([*values, np.zeros(0)])
    if not everything.size:
        return 0.0, 1.0
    low, high = float(everything.min()), float(everything.max())
    span = high - low or abs(high) or 1.0
    return low - _MARGIN * span, high + _MARGIN * span


def _widened(low: float, high: float, span: float) -> tuple[float, float]:
    middle = (low + high) / 2
    return middle - span / 2, middle + span / 2


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values between two, with what to write at them."""
    least = (high - low) / _STEPS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= least)
    first, last = math.ceil(low / step), math.floor(high / step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(n * step, f"{n * step:.{decimals}f}") for n in range(first, last + 1)]
