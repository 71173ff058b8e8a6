"""Plot of predicted acceptance: one line per head set over the draft depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# First Okabe and Ito's colour-blind safe colours (without the yellow); markers distinguish lines in print.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555", "#56b4e9", "#e69f00", "#7f3c8d", "#7a5c2e", "#111111",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
_FONT_SIZE = 9

HeadRow = Mapping[str, Any]


def plot_acceptance(heads: Sequence[HeadRow], path: str | Path, note: str = "") -> None:
    """Plot head sets and write the figure to `path` (the suffix names the format); `note` is the title.

    A head set has `name`, `tokens_per_call`, `ceiling` and `depths`, rows with `depth`, `conditional` and
    `unconditional` (fractions). Conditional acceptance is a line with markers, unconditional a thin dashed line of the
    same colour. DataError if matplotlib is missing or no head set has a depth.
    """
    drawn = [row for row in heads if row["depths"]]
    if not drawn:
        raise DataError("plot: no head set with a depth, at least one expected; choose heads that draft")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            f"plot: matplotlib is missing ({error}), it draws the picture; pip install 'speechmtp[plot]'"
        ) from error
    figure = Figure(figsize=(8.0, 4.7 + 0.13 * (2 + len(drawn))), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and leaves the caller's pyplot state alone
    axes = figure.add_subplot()
    for number, row in enumerate(drawn):
        _draw(axes, row, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
    axes.set_xlabel("depth (token drafted behind the base token)")
    axes.set_ylabel("accepted, %")
    axes.set_ylim(0, 102)
    axes.set_xticks(range(1, 1 + max(len(row["depths"]) for row in drawn)))
    axes.grid(which="major", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if note:
        axes.set_title(note, loc="left", fontsize=_FONT_SIZE)
    _draw_legend(axes)
    figure.savefig(path)


def legend_label(row: HeadRow) -> str:
    """Name and predicted tokens per call with their upper bound."""
    if row["tokens_per_call"] is None:
        return str(row["name"])
    return f"{row['name']}: {row['tokens_per_call']:.2f} tokens per call of at most {row['ceiling']:.2f}"


def _draw(axes: Axes, row: HeadRow, colour: str, marker: str) -> None:
    """Draw both lines of a head set; depths without a label are left out."""
    for key, style in (("conditional", "-"), ("unconditional", "--")):
        points = [(d["depth"], 100 * d[key]) for d in row["depths"] if d[key] is not None]
        solid = style == "-"
        axes.plot(
            [x for x, _ in points], [y for _, y in points], style, color=colour,
            marker=marker if solid else "", markersize=6, linewidth=1.8 if solid else 0.9,
            alpha=1.0 if solid else 0.8, label=legend_label(row) if solid else "_hidden",
        )  # fmt: skip


def _draw_legend(axes: Axes) -> None:
    """Draw the legend of head sets and line styles below the plot, where it covers nothing."""
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    handles += [Line2D([], [], color="#222222", linewidth=1.8), Line2D([], [], color="#222222", linewidth=0.9, ls="--")]
    labels += ["solid: given that the tokens before were right", "dashed: all tokens up to this depth right"]
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=_FONT_SIZE, ncols=2)
