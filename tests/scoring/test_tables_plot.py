"""Tables and the trade-off plot of comparison rows."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speechmtp.errors import DataError
from speechmtp.scoring.plot import plot_tradeoff, row_label
from speechmtp.scoring.tables import Column, format_cell, render_markdown, render_text

ROWS: list[dict[str, Any]] = [
    {"strategy": "ar", "options": {}, "exact": True, "wer": 9.2, "calls_per_word": 3.5},
    {"strategy": "verify", "options": {"depth": 7}, "exact": True, "wer": 9.2, "calls_per_word": 0.75},
    {"strategy": "threshold", "options": {"theta": 0.9}, "exact": False, "wer": 9.612, "calls_per_word": 1.0},
    {"strategy": "ctc-only", "options": {}, "exact": False, "wer": 12.4, "calls_per_word": None},
]
COLUMNS = ["strategy", "options", Column("exact"), Column("wer", "WER %"), "calls_per_word"]


def test_plain_table() -> None:
    assert render_text(ROWS, COLUMNS) == (
        "strategy   options    exact  WER %  calls per word\n"
        "---------  ---------  -----  -----  --------------\n"
        "ar         -          yes     9.20            3.50\n"
        "verify     depth=7    yes     9.20            0.75\n"
        "threshold  theta=0.9  no      9.61            1.00\n"
        "ctc-only   -          no     12.40               -\n"
    )


def test_markdown_table() -> None:
    table = render_markdown([{"a": "x|y", "b": 1}, {"a": None, "b": 20}], ["a", Column("b", "n", align="left")])
    assert table == "| a    | n   |\n| ---- | --- |\n| x\\|y | 1   |\n| -    | 20  |\n"
    assert render_markdown([{"b": 1}], ["b"]).splitlines()[1] == "| --: |"


def test_tables_without_rows_have_their_heading() -> None:
    assert render_text([], ["a"]) == "a\n-\n"
    assert render_markdown([], ["a"]).count("\n") == 2


def test_wide_characters_take_two_columns() -> None:
    assert render_text([{"a": "你好", "b": 1}, {"a": "ab", "b": 2}], ["a", "b"]).splitlines()[2:] == [
        "你好  1",
        "ab    2",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (True, "yes"), (3, "3"), (2.345, "2.35"), ({"a": True, "b": 0.5}, "a=true,b=0.5"), ([1, 2], "1, 2")],
)
def test_cells(value: Any, expected: str) -> None:
    assert format_cell(value) == expected


def test_row_labels() -> None:
    assert [row_label(row) for row in ROWS] == ["ar", "verify:depth=7", "threshold:theta=0.9", "ctc-only"]
    assert row_label({"strategy": "verify", "options": "depth=3"}) == "verify:depth=3"


def test_plot_writes_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [{**row, "wer_low": row["wer"] - 1.9, "wer_high": row["wer"] + 1.9} for row in ROWS]
    plot_tradeoff(rows, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    plot_tradeoff(ROWS[3:], tmp_path / "line.svg")  # no point at all, no interval
    assert "ctc-only" not in rows[0]
    assert (tmp_path / "line.svg").stat().st_size > 0


def test_labels_of_points_at_one_height_do_not_overlap() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from speechmtp.scoring.plot_labels import Label, place_labels

    figure = Figure(figsize=(8, 5))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, 4)
    axes.set_ylim(0, 20)
    places = [0.26, 0.3, 0.67, 0.7, 0.72, 0.75, 0.78, 0.82, 0.82, 0.82, 0.9, 1.0, 1.07, 1.2, 3.5]
    labels = [Label(f"strategy:depth={i}", x, 9.2, "black") for i, x in enumerate(places)]
    place_labels(axes, labels, line=9.2, size=8.5)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(places)
    # an annotation's extent includes its hair line, so the text alone is measured at its place
    from matplotlib.text import Text

    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    clashes = [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]
    assert clashes == []


def test_plot_refuses_what_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no axis 'speed'"):
        plot_tradeoff(ROWS, tmp_path / "a.png", "speed")
    with pytest.raises(DataError, match="no row with a word error rate"):
        plot_tradeoff([{"strategy": "ar", "wer": None}], tmp_path / "a.png")


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("no module named matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"matplotlib is missing .*pip install 'speechmtp\[plot\]'"):
        plot_tradeoff(ROWS, tmp_path / "a.png")


def test_scoring_imports_nothing_heavy() -> None:
    modules = ", ".join(f"speechmtp.scoring.{m}" for m in ("wer", "report", "compare", "tables", "plot"))
    code = f"import sys, {modules}; assert not {{'torch', 'transformers', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
