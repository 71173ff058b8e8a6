"""Tables and the trade-off plot of comparison rows."""

import builtins
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from speechmtp.errors import DataError
from speechmtp.scoring.plot import frontier, plot_tradeoff
from speechmtp.scoring.tables import Column, format_cell, render_markdown, render_text, short_label

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


def test_labels_count_the_paths_of_a_tree() -> None:
    assert short_label("tree:paths=0.1.00.10") == "tree:paths=4 nodes"
    assert short_label("medusa:heads=a,paths=0.1,theta=0.3") == "medusa:heads=a,paths=2 nodes,theta=0.3"
    assert short_label("verify:depth=3") == "verify:depth=3"


def compared(label: str, wer: float | None, speed: float, exact: bool = True) -> dict[str, Any]:
    """A row of a comparison; its speed-up is `speed`, its tokens per call twice that."""
    bars = {"wer_low": None, "wer_high": None} if wer is None else {"wer_low": wer - 2, "wer_high": wer + 2}
    calls = None if label == "ctc-only" else 2 * speed
    return {
        "strategy": label.partition(":")[0], "label": label, "exact": exact, "wer": wer, **bars,
        "tokens_per_call": calls, "seconds": 3 / speed, "speedup_vs_ar": speed, "trunk_calls": 9 if calls else 0,
        "identical_to_ar": 7, "utterances": 8,
    }  # fmt: skip


FEW = [
    compared("ar", 9.0, 1.0), compared("verify:depth=3", 9.0, 3.0), compared("tree:paths=0.1.00", 9.0, 4.0),
    compared("oracle:depth=3", 9.0, 8.0), compared("transformers:greedy", 9.0, 1.1),
    compared("threshold:theta=0.9", 9.5, 5.0, exact=False), compared("typical", 9.5, 4.0, exact=False),
    compared("top-k", 9.0, 3.0, exact=False), compared("ctc-only", 12.4, 90.0, exact=False),
]  # fmt: skip
MANY = FEW + [compared(f"verify:depth=3,heads=h{n}", 9.0, 1 + 0.1 * n) for n in range(20)]


def written(path: Path) -> list[str]:
    """All that is written in a picture."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def drawn(rows: list[dict[str, Any]], tmp_path: Path, x: str = "tokens_per_call", recommended: str = "") -> list[str]:
    """All that is written in the picture of some rows."""
    pytest.importorskip("matplotlib")
    plot_tradeoff(rows, tmp_path / "a.svg", x, recommended)
    return written(tmp_path / "a.svg")


def test_few_rows_are_all_named_at_their_points(tmp_path: Path) -> None:
    found = drawn(FEW, tmp_path)
    names = [short_label(row["label"]) for row in FEW[:-1]]
    assert [found.count(name) for name in names] == [2, *[1] * 7], "`ar` stands in the legend too"
    assert found.count("ctc-only (no trunk call)") == 1 and "recommended" not in found
    assert {"oracle (ceiling)", "transformers' own", "exact", "lossy"} <= set(found)
    assert "tokens per trunk call (more is faster)" in found
    assert "decoder seconds (fewer is faster)" in drawn(FEW, tmp_path, "seconds")


@pytest.mark.parametrize("x", ["tokens_per_call", "seconds"])
def test_of_many_rows_the_best_are_named_at_their_points_and_all_in_a_list(x: str, tmp_path: Path) -> None:
    found = drawn(MANY, tmp_path, x, "verify:depth=3")
    at_points = ["tree:paths=3 nodes", "verify:depth=3", "transformers:greedy", "threshold:theta=0.9", "top-k"]
    for row in MANY[1:]:
        name = short_label(row["label"])
        if row["exact"]:
            assert found.count(name) == 1 + (name in at_points), name
        elif name != "ctc-only":
            assert found.count(f"{name}  7/8 as ar") == 1 and found.count(name) == (name in at_points), name
    assert found.count("ar") == 3, "legend, point and list"
    assert found.count("recommended") == 1


def test_the_frontier_is_what_nothing_of_its_kind_beats() -> None:
    assert [row["label"] for row in frontier(FEW[:-1], "tokens_per_call")] == [
        "tree:paths=0.1.00", "threshold:theta=0.9", "top-k"
    ]  # fmt: skip
    assert frontier(FEW[:-1], "seconds") == frontier(FEW[:-1], "tokens_per_call")
    alike = [compared("verify", 9.0, 3.0), compared("ctc", 9.0, 3.0)]
    assert frontier(alike, "tokens_per_call") == alike, "neither beats the other"


def test_without_error_rates_tokens_per_call_stand_against_speed(tmp_path: Path) -> None:
    rows = [compared(row["label"], None, row["speedup_vs_ar"], row["exact"]) for row in FEW]
    found = drawn(rows, tmp_path, "speedup_vs_ar")
    assert {"tokens per trunk call", "speed-up over ar (more is faster)", "lossy"} <= set(found)
    assert not any("error rate" in text or "ctc-only" in text for text in found)


def test_pictures_of_one_row_or_of_none_with_a_call(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_tradeoff(FEW[:1], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "ctc-only (no trunk call)" in drawn(FEW[-1:], tmp_path)


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
        plot_tradeoff(FEW, tmp_path / "a.png", "speed")
    with pytest.raises(DataError, match="no row with seconds"):
        plot_tradeoff([], tmp_path / "a.png", "seconds")
    with pytest.raises(DataError, match="no row with speedup_vs_ar"):
        plot_tradeoff([compared("verify", None, 2.0) | {"speedup_vs_ar": None}], tmp_path / "a.png", "speedup_vs_ar")


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError("no module named matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"matplotlib is missing .*pip install 'speechmtp\[plot\]'"):
        plot_tradeoff(FEW, tmp_path / "a.png")


def test_scoring_imports_nothing_heavy() -> None:
    modules = ", ".join(f"speechmtp.scoring.{m}" for m in ("wer", "report", "compare", "tables", "plot"))
    code = f"import sys, {modules}; assert not {{'torch', 'transformers', 'matplotlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
