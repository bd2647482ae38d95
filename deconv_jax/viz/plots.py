"""Line and scatter plots and count matrices: dataclasses, drawn by `draw` with Pillow alone."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageColor, ImageDraw

from deconv_jax.viz.pixels import enlarge
from deconv_jax.viz.text import load_font, shorten_to_length

WIDTH, HEIGHT = 800, 600
"""Size of a drawn plot in pixels."""
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
"""Colors of series in order; they repeat after the tenth."""

MAX_ANNOTATED = 30
"""Largest number of rows or columns with which counts are written into the cells of a matrix."""

_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 66, 20, 50
_TEXT, _TICK, _MARGIN = 15, 5, 0.04
_MAX_INTERVALS = 7
"""Largest number of intervals between ticks of an axis."""
_SMALL, _MAX_NAME = 12, 24
"""Text height in a matrix in pixels, and the most characters of a name there."""
_MATRIX_SIDE = 900
"""Approximate side in pixels of a matrix without written counts."""
_OVERSAMPLING = 3
"""Factor by which a plot is drawn larger, then averaged: Pillow does not antialias discs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Points of one color.

    Attributes:
      x, y: Coordinates of each point. Points that are not finite are not drawn.
      name: Entry in the legend, "" for none.
      joined: Whether a line joins the points in order.
    """

    x: Float[np.ndarray, " points"]
    y: Float[np.ndarray, " points"]
    name: str = ""
    joined: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Plot:
    """Series on two linear axes.

    Attributes:
      title, x_name, y_name: Title and axis labels.
      series: Series, each drawn over the previous ones.
      equal_units: Whether a unit has the same length on both axes.
    """

    title: str
    x_name: str
    y_name: str
    series: Sequence[Series]
    equal_units: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class CountMatrix:
    """A matrix of counts, such as a confusion matrix; a cell is darker the larger its share of the row.

    Attributes:
      title, row_name, column_name: Title and axis labels.
      counts: Nonnegative counts, written into the cells up to `MAX_ANNOTATED` (30) rows and columns.
      row_names, column_names: Name of each row and column, cut to 24 characters, and left out where cells are
        too small.
    """

    title: str
    row_name: str
    column_name: str
    counts: Int[np.ndarray, "rows columns"]
    row_names: Sequence[str]
    column_names: Sequence[str]


Drawing = Plot | CountMatrix


def draw(drawing: Drawing) -> Image.Image:
    """Draw as an RGB picture: a plot in 800 x 600 pixels, a matrix as large as it needs.

    A plot without finite points has empty axes from 0 to 1. A matrix must have at least one cell.
    """
    return _draw_matrix(drawing) if isinstance(drawing, CountMatrix) else _draw_plot(drawing)


def _draw_plot(plot: Plot) -> Image.Image:
    big = _OVERSAMPLING
    picture = Image.new("RGB", (WIDTH * big, HEIGHT * big), "white")
    canvas = ImageDraw.Draw(picture)
    font = load_font(_TEXT * big)

    def text(x: float, y: float, string: str, anchor: str) -> None:
        canvas.text((x * big, y * big), string, fill="black", font=font, anchor=anchor)

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


def _draw_matrix(matrix: CountMatrix) -> Image.Image:
    rows, columns = matrix.counts.shape
    font, small = load_font(_TEXT), load_font(_SMALL)
    digits = [[str(count) for count in row] for row in matrix.counts]
    written = max(rows, columns) <= MAX_ANNOTATED
    if written:
        side = max(28, *(math.ceil(small.getlength(word)) + 8 for row in digits for word in row))
    else:
        side = max(1, _MATRIX_SIDE // max(rows, columns))
    named = side >= _SMALL + 2
    row_names, column_names = (
        [shorten_to_length(name, _MAX_NAME) for name in names]
        for names in (matrix.row_names, matrix.column_names)
    )
    # Margins for the row names at the left and the column names at the bottom.
    left = 12 if not named else 12 + math.ceil(max(map(small.getlength, row_names)))
    upright = named and max(map(small.getlength, column_names)) <= side - 4
    below = _SMALL + 6 if upright or not named else 8
    if named and not upright:
        below += math.ceil(max(map(small.getlength, column_names)))
    text_width = max(font.getlength(matrix.title), font.getlength(matrix.row_name)) + 16
    top = _TOP
    size = max(left + columns * side + 12, math.ceil(text_width)), top + rows * side + below + 28
    picture = Image.new("RGB", size, "white")
    canvas = ImageDraw.Draw(picture)
    canvas.text((8, 8), matrix.title, fill="black", font=font)
    canvas.text((8, top - 8), matrix.row_name, fill="black", font=font, anchor="ls")
    middle = left + columns * side / 2
    canvas.text((middle, size[1] - 8), matrix.column_name, fill="black", font=font, anchor="ms")

    shares = matrix.counts / np.maximum(matrix.counts.sum(axis=1, keepdims=True), 1)
    white, dark = np.full(3, 255.0), np.array(ImageColor.getrgb(COLORS[0]), np.float64)
    shades = (white + shares[..., None] * (dark - white)).round().astype(np.uint8)
    picture.paste(Image.fromarray(enlarge(shades, side)), (left, top))
    if written:
        for (row, column), share in np.ndenumerate(shares):
            center = left + (column + 0.5) * side, top + (row + 0.5) * side
            color = "white" if share > 0.5 else "black" if matrix.counts[row, column] else "#b0b0b0"
            canvas.text(center, digits[row][column], fill=color, font=small, anchor="mm")
    frame = (left - 1, top - 1, left + columns * side, top + rows * side)
    canvas.rectangle(frame, outline="black")
    if named:
        for row, name in enumerate(row_names):
            middle = top + (row + 0.5) * side
            canvas.text((left - 5, middle), name, fill="black", font=small, anchor="rm")
        for column, name in enumerate(column_names):
            middle, under = left + (column + 0.5) * side, top + rows * side + 4
            if upright:
                canvas.text((middle, under), name, fill="black", font=small, anchor="ma")
            else:
                label = _vertical_text(name)
                picture.paste(label, (round(middle - label.width / 2), under))
    return picture


def _vertical_text(name: str) -> Image.Image:
    """Draw a name that reads from bottom to top."""
    font = load_font(_SMALL)
    label = Image.new("RGB", (max(1, math.ceil(font.getlength(name))), _SMALL + 4), "white")
    ImageDraw.Draw(label).text((0, label.height / 2), name, fill="black", font=font, anchor="lm")
    return label.transpose(Image.Transpose.ROTATE_90)


def _finite(series: Series) -> np.ndarray:
    """Return the finite points of a series as (points, 2)."""
    points = np.stack([series.x, series.y], axis=-1).astype(np.float64)
    return points[np.isfinite(points).all(axis=-1)]


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return axis limits with a small margin around all values; (0, 1) without values."""
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
    """Return round tick values between two limits, with their labels."""
    least = (high - low) / _MAX_INTERVALS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= least)
    first, last = math.ceil(low / step), math.floor(high / step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(n * step, f"{n * step:.{decimals}f}") for n in range(first, last + 1)]
