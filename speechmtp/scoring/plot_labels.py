"""Place the names of points in a plot where they cover no other name, marker or line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_HEIGHTS = (14, 26, 38, 50, 64, 78, 94, 110)  # candidate offsets above or below the marker, in points
_SHIFTS = (0.0, 0.35, -0.35, 0.7, -0.7, 1.1, -1.1, 1.6, -1.6)  # candidate offsets to the right, in label widths
_MARKER = 5.5  # free radius around a marker, in points


@dataclass(frozen=True)
class Label:
    """The name of a point at (x, y) in data units, its colour, and the ends of its vertical bar if it has one."""

    text: str
    x: float
    y: float
    colour: str
    bar: tuple[float, float] | None = None


def place_labels(
    axes: Axes, labels: Sequence[Label], *, line: float | None, size: float, avoid: Sequence[tuple[float, float]] = ()
) -> None:
    """Draw labels at font size `size`, each joined to its point by a hairline; `avoid` are points without names.

    Greedy from left to right: a label takes the cheapest of a grid of places. Covering a name or a marker costs most,
    then a hairline that crosses a name or marker, then covering a bar or the horizontal `line` (data units); distance
    costs a little.
    """
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # computes the layout, so that positions are final
    scale = figure.dpi / 72.0  # pixels per point
    solid: list[Bbox] = [text.get_window_extent() for text in axes.texts]
    thin: list[Bbox] = []
    radius = _MARKER * scale
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        solid.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
        if label.bar is not None:
            low, high = (axes.transData.transform((label.x, end))[1] for end in label.bar)
            thin.append(Bbox.from_extents(x - scale, low, x + scale, high))
    for spot in avoid:
        x, y = axes.transData.transform(spot)
        solid.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    if line is not None:
        y = axes.transData.transform((1.0, line))[1]
        thin.append(Bbox.from_extents(axes.bbox.x0, y - scale, axes.bbox.x1, y + scale))
    for label in sorted(labels, key=lambda label: (label.x, label.y, label.text)):
        note = axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=label.colour,
            arrowprops={"arrowstyle": "-", "color": label.colour, "alpha": 0.5, "lw": 0.7, "shrinkB": 4},
        )
        extent = note.get_window_extent()
        dx, dy = _cheapest(extent.padded(1.5 * scale), solid, thin, axes.bbox, scale)
        note.set_position((dx / scale, dy / scale))
        solid.append(extent.translated(dx, dy))


def _cheapest(
    extent: Bbox, solid: Sequence[Bbox], thin: Sequence[Bbox], inside: Bbox, scale: float
) -> tuple[float, float]:
    """The cheapest offset in pixels for `extent`, which is centred on its point."""
    x, y = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
    best, min_cost = (0.0, 0.0), float("inf")
    for height in _HEIGHTS:
        for up in (height * scale, -height * scale):
            for shift in _SHIFTS:
                right = shift * extent.width
                moved = extent.translated(right, up)
                contained = inside.x0 <= moved.x0 and moved.x1 <= inside.x1
                contained = contained and inside.y0 <= moved.y0 and moved.y1 <= inside.y1
                cost = (0 if contained else 2000) + (abs(up) + 0.7 * abs(right)) / scale
                if cost >= min_cost:  # no better than the best place, even without overlaps
                    continue
                hair = [(x + right * part / 12, y + up * part / 12) for part in range(3, 13)]
                cost += (
                    1000 * sum(moved.overlaps(other) for other in solid)
                    + 25 * sum(moved.overlaps(other) for other in thin)
                    + 40 * sum(other.contains(*spot) for other in solid for spot in hair)
                )
                if cost < min_cost:
                    best, min_cost = (right, up), cost
    return best
