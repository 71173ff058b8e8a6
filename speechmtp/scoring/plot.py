"""The trade-off plot of a comparison: word error rate against trunk calls, one labelled point a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import DataError
from speechmtp.scoring.plot_labels import Label, place_labels
from speechmtp.scoring.tables import format_option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {
    "calls_per_word": "trunk calls per word (fewer is faster)",
    "tokens_per_call": "tokens per trunk call (more is faster)",
}
_EXACT, _LOSSY, _REFERENCE = "#0b62a4", "#c8501e", "#444444"  # apart in print and for the colour-blind
_FONT_SIZE = 8.5

Row = Mapping[str, Any]


def plot_tradeoff(rows: Sequence[Row], path: str | Path, x: str = "calls_per_word") -> None:
    """Writes the picture of comparison rows to `path` (the suffix names the format).

    `x` is `calls_per_word` or `tokens_per_call`, on a logarithmic axis. Rows have `strategy`, `options`,
    `exact`, `wer` and optionally `wer_low`, `wer_high` (percent), and `x`; a row without trunk calls is a
    dotted line. `ar` is a dashed line with its interval as a band, which stands for every row with the same
    interval; other rows have bars. Exact strategies are filled, lossy ones hollow. Raises DataError when
    matplotlib is missing or there is nothing to draw.
    """
    if x not in AXES:
        raise DataError(f"plot: no axis '{x}'; use one of {', '.join(AXES)}")
    drawn = [row for row in rows if row.get("wer") is not None]
    if not drawn:
        raise DataError("plot: no row with a word error rate, at least one expected; score the strategies first")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            f"plot: matplotlib is missing ({error}), it draws the picture; pip install 'speechmtp[plot]'"
        ) from error
    figure = Figure(figsize=(8.0, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and leaves the caller's pyplot state alone
    axes = figure.add_subplot()
    points = [row for row in drawn if row.get(x)]
    lines = [row for row in drawn if not row.get(x)]
    reference = next((row for row in points if _is_ar(row)), None)
    _set_limits(axes, drawn, points, x)
    _draw_lines(axes, lines, reference)
    _draw_points(axes, points, reference, x)
    axes.set_xlabel(AXES[x])
    axes.set_ylabel("word error rate, % (bars and band: 95 % interval)")
    axes.grid(which="major", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _draw_legend(axes, points)
    place_labels(
        axes,
        [Label(row_label(row), row[x], row["wer"], _colour(row), _interval(row)) for row in points],
        line=None if reference is None else reference["wer"],
        size=_FONT_SIZE,
    )
    figure.savefig(path)


def row_label(row: Row) -> str:
    """What a row is called: `verify`, or with options `verify:depth=3`."""
    options = row.get("options")
    if isinstance(options, Mapping):
        options = ",".join(f"{key}={format_option(value)}" for key, value in options.items())
    return f"{row['strategy']}:{options}" if options else str(row["strategy"])


def _colour(row: Row) -> str:
    if _is_ar(row):
        return _REFERENCE
    return _EXACT if row.get("exact") else _LOSSY


def _interval(row: Row) -> tuple[float, float] | None:
    """The interval of a row, None where it has none."""
    if row.get("wer_low") is None or row.get("wer_high") is None:
        return None
    return row["wer_low"], row["wer_high"]


def _draw_points(axes: Axes, points: Sequence[Row], reference: Row | None, x: str) -> None:
    """Markers, with bars where the band of `ar` does not tell the interval; lossy settings are joined."""
    band = _interval(reference) if reference is not None else None
    for row in points:
        colour, interval = _colour(row), _interval(row)
        if interval is not None and interval != band:
            axes.vlines(row[x], *interval, color=colour, alpha=0.35, linewidth=1.4)
        face = colour if row.get("exact") else "white"
        marker = "s" if _is_ar(row) else "o"
        axes.plot(row[x], row["wer"], marker, color=colour, markerfacecolor=face, markersize=7, zorder=3)
    for name in sorted({row["strategy"] for row in points if not row.get("exact")}):
        curve = sorted((row[x], row["wer"]) for row in points if row["strategy"] == name)
        axes.plot(*zip(*curve), color=_LOSSY, alpha=0.35, linewidth=1, zorder=1)


def _set_limits(axes: Axes, drawn: Sequence[Row], points: Sequence[Row], x: str) -> None:
    """Axes that hold all points, bars and some room for labels, with plain numbers at the ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = [row[key] for row in drawn for key in ("wer", "wer_low", "wer_high") if row.get(key) is not None]
    room = 0.15 * (max(values) - min(values)) or 1.0
    axes.set_ylim(max(0.0, min(values) - room), max(values) + room)
    places = [row[x] for row in points] or [1.0]
    low, high = min(places) / 1.5, max(places) * 1.5
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 3, 5)]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _draw_lines(axes: Axes, lines: Sequence[Row], reference: Row | None) -> None:
    """`ar` dashed and unnamed (its point has a name) with its band, rows without calls dotted and named."""
    if reference is not None:
        axes.axhline(reference["wer"], color=_REFERENCE, linestyle="--", linewidth=1, alpha=0.6, zorder=0)
        band = _interval(reference)
        if band is not None:
            axes.axhspan(*band, color=_REFERENCE, alpha=0.08, linewidth=0, zorder=0)
    for row in lines:
        axes.axhline(row["wer"], color=_colour(row), linestyle=":", linewidth=1.2, zorder=0)
        axes.annotate(
            f"{row_label(row)} (no trunk call)",
            (1.0, row["wer"]),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=_FONT_SIZE,
            color=_colour(row),
        )


def _draw_legend(axes: Axes, points: Sequence[Row]) -> None:
    """What the markers mean, above the plot where it hides nothing."""
    from matplotlib.lines import Line2D

    kinds = [("s", _REFERENCE, _REFERENCE, "ar (one token per call)", [r for r in points if _is_ar(r)])]
    exact = [row for row in points if row.get("exact") and not _is_ar(row)]
    kinds.append(("o", _EXACT, _EXACT, "exact (the texts of ar)", exact))
    kinds.append(("o", _LOSSY, "white", "lossy", [row for row in points if not row.get("exact")]))
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=edge, markerfacecolor=face, label=label)
        for marker, edge, face, label, members in kinds
        if members
    ]
    if handles:
        axes.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=3,
            frameon=False,
            fontsize=_FONT_SIZE,
        )


def _is_ar(row: Row) -> bool:
    return bool(row["strategy"] == "ar")
