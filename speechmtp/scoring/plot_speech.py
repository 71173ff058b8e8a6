"""Picture of speech: its spectrogram, with the words where they are said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechmtp.errors import DataError

WINDOW, HOP = 1024, 240  # samples
RANGE = 70.0  # decibels below the loudest that are shown
TOP = 8000.0  # Hz
_FONT_SIZE = 9


def plot_speech(
    audio: np.ndarray, rate: int, words: Sequence[tuple[str, float, float]], path: str | Path, note: str = ""
) -> None:
    """Draw samples [N] at `rate` Hz with `words` (text, begin and end in seconds) and write the figure to `path` (the
    suffix names the format); `note` is the title. DataError if matplotlib is missing, or for less than a window of
    samples."""
    if len(audio) < WINDOW:
        raise DataError(f"plot: {len(audio)} samples, expected {WINDOW} or more; give longer speech")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            f"plot: matplotlib is missing ({error}), it draws the picture; pip install 'speechmtp[plot]'"
        ) from error
    seconds = len(audio) / rate
    figure = Figure(figsize=(min(20.0, 3.0 + 1.8 * seconds), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display and leaves the caller's pyplot state alone
    axes = figure.add_subplot()
    image = axes.imshow(
        _decibels(audio), origin="lower", aspect="auto", cmap="magma", vmin=-RANGE, vmax=0,
        extent=(0, seconds, 0, rate / 2),
    )  # fmt: skip
    axes.set_ylim(0, min(TOP, rate / 2))
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz")
    figure.colorbar(image, ax=axes, label="dB", pad=0.01)
    top = axes.secondary_xaxis("top")
    top.set_xticks([(begin + end) / 2 for _, begin, end in words], [word for word, _, _ in words])
    top.tick_params(labelrotation=50, labelsize=_FONT_SIZE, length=2)
    for label in top.get_xticklabels():
        label.set_horizontalalignment("left")
    for _, begin, end in words:
        for place in (begin, end):
            axes.axvline(place, color="white", linewidth=0.4, alpha=0.6)
    if note:
        figure.supxlabel(note, fontsize=_FONT_SIZE)
    figure.savefig(path)


def _decibels(audio: np.ndarray) -> np.ndarray:
    """Power [bins, frames] in decibels below the loudest."""
    padded = np.pad(audio, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)).T ** 2
    found: np.ndarray = 10 * np.log10(np.maximum(power / max(power.max(), 1e-12), 1e-12))
    return found
