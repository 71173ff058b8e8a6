"""Plot of the delays of live recognition: the share of words that were committed by then, one line per stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechmtp.errors import DataError

# Okabe and Ito's colour-blind safe colours; dashes tell lines apart in print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555", "#56b4e9", "#e69f00")
_STYLES = ("-", "--", "-.", ":")
_SHARE = 99.5  # percent of delays within the picture


def plot_delays(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw rows that have `delays` (seconds) and write the figure to `path`, whose suffix names the format.

    Each line ends at the row's `coverage`. DataError if matplotlib is missing or no row has a delay.
    """
    drawn = [row for row in rows if row.get("delays")]
    if not drawn:
        raise DataError("plot: no row with delays, at least one expected; give a model that tells when words are said")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            f"plot: matplotlib is missing ({error}), it draws the picture; pip install 'speechmtp[plot]'"
        ) from error
    figure = Figure(figsize=(8.0, 4.7), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and leaves the caller's pyplot state alone
    axes, ends = figure.add_subplot(), list[float]()
    for number, row in enumerate(drawn):
        delays, coverage = sorted(row["delays"]), row.get("coverage") or 1.0
        shares = [100 * coverage * (place + 1) / len(delays) for place in range(len(delays))]
        label = f"{row['label']}: mean {row['delay_mean']:.2f} s, nine of ten by {row['delay_p90']:.2f} s"
        colour, dashes = _COLOURS[number % len(_COLOURS)], _STYLES[number // len(_COLOURS) % len(_STYLES)]
        axes.step(delays, shares, where="post", linewidth=1.6, label=label, color=colour, linestyle=dashes)
        ends.append(delays[int(len(delays) * _SHARE / 100)])
    axes.set_xlim(min(0.0, min(min(row["delays"]) for row in drawn)), max(ends) * 1.03 + 0.01)
    axes.set_ylim(0, 101)
    axes.set_xlabel("seconds of audio from the end of a word until it is committed")
    axes.set_ylabel("words of the reference, %")
    axes.grid(which="major", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    figure.savefig(path)
