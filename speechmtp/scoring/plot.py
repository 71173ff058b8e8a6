"""Plots of a comparison: word error rate against tokens per call or seconds, with the names of all rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import DataError
from speechmtp.scoring.plot_labels import Label, place_labels
from speechmtp.scoring.tables import short_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {
    "tokens_per_call": "tokens per trunk call (more is faster)",
    "seconds": "decoder seconds (fewer is faster)",
    "speedup_vs_ar": "speed-up over ar (more is faster)",
}
_FEW = 12  # up to this number, all points are named
_FONT_SIZE, _LIST_SIZE = 8.5, 7.0
_LINE = 0.145  # inches per row of the list

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Kind:
    """How rows of one kind are plotted; colours are distinct in print and for the colour-blind, as are markers."""

    marker: str
    colour: str
    legend: str
    holds: Callable[[Row], bool]
    hollow: bool = False


_KINDS = (  # a row has the first kind that holds
    _Kind("s", "#444444", "ar", lambda row: bool(row["strategy"] == "ar")),
    _Kind("D", "#444444", "oracle (ceiling)", lambda row: bool(row["strategy"] == "oracle"), hollow=True),
    _Kind("^", "#00795c", "transformers' own", lambda row: bool(row["strategy"] == "transformers")),
    _Kind("o", "#0b62a4", "exact", lambda row: bool(row.get("exact"))),
    _Kind("o", "#c8501e", "lossy", lambda row: True, hollow=True),
)
_AR, _ORACLE, _PEER, _EXACT, _LOSSY = _KINDS


def plot_tradeoff(rows: Sequence[Row], path: str | Path, x: str = "tokens_per_call", recommended: str = "") -> None:
    """Plot comparison rows and write the figure to `path` (the suffix names the format).

    `x`, one of AXES, is a logarithmic axis. The y axis is the word error rate, or tokens per call if no row has one
    (texts that a text LM continues). Rows have `label`, `strategy`, `exact`, `x`, and `wer` in percent with `wer_low`
    and `wer_high` if known; a row without trunk calls is a dotted line. Up to 12 points are all named. Of more, only
    `ar`, transformers' own, the label `recommended` and the points that no other of their kind beats are named; a list
    below, on the same x axis, has every name. DataError if matplotlib is missing or there is nothing to plot.
    """
    if x not in AXES:
        raise DataError(f"plot: no axis '{x}'; use one of {', '.join(AXES)}")
    y = "wer" if any(row.get("wer") is not None for row in rows) else "tokens_per_call"
    drawn = [row for row in rows if row.get(y) is not None]
    points = [row for row in drawn if row.get(x) and row.get("trunk_calls") != 0]
    if not drawn or (y != "wer" and not points):
        raise DataError(f"plot: no row with {'a word error rate' if y == 'wer' else x}, at least one expected")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            f"plot: matplotlib is missing ({error}), it draws the picture; pip install 'speechmtp[plot]'"
        ) from error
    listed = len(points) if len(points) > _FEW else 0
    figure = Figure(figsize=(9.0 if listed else 8.0, 5.0 + listed * _LINE), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and leaves the caller's pyplot state alone
    heights = [4.6, 0.4 + listed * _LINE] if listed else [1]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0].tolist()
    _set_limits(panels[0], drawn, points, x, y)
    if listed:
        _draw_list(panels[1], points, x, recommended)
    panels[-1].set_xlabel(AXES[x])
    _draw_panel(panels[0], drawn, points, (x, y), recommended)
    figure.savefig(path)


def frontier(rows: Sequence[Row], x: str, y: str = "wer") -> list[Row]:
    """The Pareto-optimal rows of the exact and of the lossy strategies on axes `x` and `y`, without `ar`, `oracle` and
    transformers' own."""
    found = []
    for kind in (_EXACT, _LOSSY):
        members = [row for row in rows if _kind(row) is kind]
        places = [(_worth(row, x), _worth(row, y)) for row in members]
        for row, (right, up) in zip(members, places):
            if not any(a >= right and b >= up and (a, b) != (right, up) for a, b in places):
                found.append(row)
    return found


def _worth(row: Row, axis: str) -> float:
    """The value of a row on an axis, with its sign such that more is better."""
    value = float(row[axis])
    return -value if axis in ("wer", "seconds") else value


def _kind(row: Row) -> _Kind:
    return next(kind for kind in _KINDS if kind.holds(row))


def _interval(row: Row) -> tuple[float, float] | None:
    """The interval of a row's word error rate; None if it has none."""
    if row.get("wer_low") is None or row.get("wer_high") is None:
        return None
    return row["wer_low"], row["wer_high"]


def _draw_panel(
    axes: Axes, drawn: Sequence[Row], points: Sequence[Row], sides: tuple[str, str], recommended: str
) -> None:
    """Draw points, lines, legend and the names of selected points."""
    x, y = sides
    ar = next((row for row in points if _kind(row) is _AR), None)
    named: Sequence[Row] = points
    if len(points) > _FEW:
        best = frontier(points, x, y)
        named = [r for r in points if _kind(r) in (_AR, _PEER) or r in best or r["label"] == recommended]
    band = _interval(ar) if ar is not None and y == "wer" else None
    _draw_lines(axes, [row for row in drawn if row not in points], ar, y)
    for row in points:
        shown, interval = row in named, _interval(row) if y == "wer" else None
        if shown and interval is not None and interval != band:
            axes.vlines(row[x], *interval, color=_kind(row).colour, alpha=0.35, linewidth=1.4)
        _draw_marker(axes, row, row[x], row[y], 7 if shown else 4.5, row["label"] == recommended)
    axes.set_ylabel("word error rate, % (bars and band: 95 % interval)" if y == "wer" else "tokens per trunk call")
    axes.grid(which="major", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_legend(axes, points, recommended)
    labels = [
        Label(short_label(row["label"]), row[x], row[y], _kind(row).colour, _interval(row) if y == "wer" else None)
        for row in named
    ]
    others = [(row[x], row[y]) for row in points if row not in named]
    place_labels(axes, labels, line=ar["wer"] if ar is not None and y == "wer" else None, size=_FONT_SIZE, avoid=others)


def _draw_marker(axes: Axes, row: Row, x: float, y: float, size: float, ringed: bool) -> None:
    kind = _kind(row)
    face = "white" if kind.hollow else kind.colour
    if ringed:
        axes.plot(x, y, "o", color=kind.colour, markerfacecolor="none", markersize=size + 6, zorder=3)
    axes.plot(x, y, kind.marker, color=kind.colour, markerfacecolor=face, markersize=size, zorder=3)


def _draw_list(axes: Axes, points: Sequence[Row], x: str, recommended: str) -> None:
    """Draw every row on its own line, its name beside its marker: exact ones first, the best at the top."""
    ordered = sorted(points, key=lambda row: (_kind(row) is _LOSSY, -_worth(row, x)))
    low, high = axes.get_xlim()
    for line, row in enumerate(ordered):
        kind, text = _kind(row), short_label(row["label"])
        if kind is _LOSSY and row.get("utterances"):
            text += f"  {row['identical_to_ar']}/{row['utterances']} as ar"
        left = math.log(row[x] / low) > 0.5 * math.log(high / low)
        axes.hlines(line, *((row[x], high) if not left else (low, row[x])), color="#f2f2f2", linewidth=0.6, zorder=0)
        _draw_marker(axes, row, row[x], line, 4.5, row["label"] == recommended)
        name = axes.annotate(
            text, (row[x], line), xytext=(-8 if left else 8, 0), textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=_LIST_SIZE, color=kind.colour,
        )  # fmt: skip
        name.set_in_layout(False)  # names do not change the width of the axes
    axes.set_ylim(len(ordered) - 0.3, -0.7)
    axes.yaxis.set_visible(False)
    axes.grid(which="major", axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)


def _set_limits(axes: Axes, drawn: Sequence[Row], points: Sequence[Row], x: str, y: str) -> None:
    """Set axes that contain all points and bars with room for labels, and plain numbers at the ticks."""
    places = [row[x] for row in points] or [1.0]
    _set_logarithmic(axes, "x", min(places) / 1.5, max(places) * 1.5)
    if y != "wer":
        heights = [row[y] for row in points]
        _set_logarithmic(axes, "y", min(heights) / 1.4, max(heights) * 1.4)
        return
    keys = ("wer", "wer_low", "wer_high")
    values = [row[key] for row in drawn for key in keys if row.get(key) is not None]
    room = 0.15 * (max(values) - min(values)) or 1.0
    axes.set_ylim(max(0.0, min(values) - room), max(values) + room)


def _set_logarithmic(axes: Axes, side: str, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    ticks = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 3, 5)]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_lines(axes: Axes, lines: Sequence[Row], ar: Row | None, y: str) -> None:
    """Draw `ar` as a dashed unnamed line (its point is named) with its interval, and rows without calls as dotted named
    lines."""
    if ar is not None:
        axes.axhline(ar[y], color=_AR.colour, linestyle="--", linewidth=1, alpha=0.6, zorder=0)
        band = _interval(ar)
        if band is not None:
            axes.axhspan(*band, color=_AR.colour, alpha=0.08, linewidth=0, zorder=0)
    for row in lines:
        axes.axhline(row[y], color=_kind(row).colour, linestyle=":", linewidth=1.2, zorder=0)
        axes.annotate(f"{row['label']} (no trunk call)", (1.0, row[y]), xycoords=("axes fraction", "data"),
                      xytext=(-2, 3), textcoords="offset points", ha="right", fontsize=_FONT_SIZE,
                      color=_kind(row).colour)  # fmt: skip


def _draw_legend(axes: Axes, points: Sequence[Row], recommended: str) -> None:
    """Draw the legend of the markers above the plot, where it covers nothing."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=kind.marker, color=kind.colour, label=kind.legend,
               markerfacecolor="white" if kind.hollow else kind.colour)
        for kind in _KINDS
        if any(_kind(row) is kind for row in points)
    ]  # fmt: skip
    if any(row["label"] == recommended for row in points):
        ring = Line2D([], [], linestyle="", marker="o", color=_EXACT.colour, markerfacecolor="none", markersize=12)
        ring.set_label("recommended")
        handles.append(ring)
    if handles:
        style: Any = {"ncols": 6, "frameon": False, "fontsize": _FONT_SIZE}
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), **style)
