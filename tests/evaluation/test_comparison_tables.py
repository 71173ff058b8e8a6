"""What the table of a comparison shows of its rows, what its footnote says, and the files beside it."""

import json
from pathlib import Path
from typing import Any

import pytest

from speechmtp.errors import DataError
from speechmtp.evaluation import comparison_files
from speechmtp.evaluation.comparison import Comparison
from speechmtp.evaluation.comparison_files import comparison_notes, plot_comparison, write_comparison
from speechmtp.evaluation.selection import StrategySelection
from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
from speechmtp.scoring.tables import render_markdown

ROW: dict[str, Any] = {
    "label": "ar", "strategy": "ar", "exact": True, "seeded": True, "wer": None, "wer_low": None, "wer_high": None,
    "identical_to_ar": 8, "utterances": 9, "near_ties": [], "acceptance_per_position": None, "flagged": {},
    "batch_size": 2, "dtype": "float32", "device": "cpu", "seed": 3, "sampling": {},
}  # fmt: skip
SPOKEN = ROW | {"wer": 5.0, "wer_low": 4.014, "wer_high": 6.016, "wer_unit": "speaker", "rtfx": 20.0}
ALWAYS = ["strategy", "exact", "same as ar", "calls", "tokens/call", "ceiling", "mean accepted",
          "accepted by position %", "draft ms", "draft calls", "decoder s", "speed-up"]  # fmt: skip


def titles(*rows: dict[str, Any]) -> list[str]:
    """Headings of the columns."""
    return [column.heading for column in comparison_columns(list(rows))]


def shown(**values: Any) -> dict[str, Any]:
    """A row as it is shown."""
    return comparison_rows([ROW | values])[0]


def test_columns_are_those_that_have_values() -> None:
    assert titles(ROW) == ALWAYS
    scored = [*ALWAYS[:2], "WER %", "95 % interval by speaker", *ALWAYS[2:], "end to end", "RTFx"]
    assert titles(SPOKEN) == titles(ROW, SPOKEN) == scored
    assert "95 % interval by utterance" in titles(SPOKEN | {"wer_unit": "utterance"})
    older = {key: value for key, value in SPOKEN.items() if key != "wer_unit"}
    assert "95 % interval" in titles(older)
    assert titles(ROW | {"acceptance": 0.5})[7:9] == ["stayed %", "sum min(p, q) %"]


def test_every_column_shows_its_value() -> None:
    values = {
        "trunk_calls": 11, "tokens_per_call": 1.5, "oracle_tokens_per_call": 2.5, "mean_acceptance_length": 3.5,
        "acceptance": 0.5, "expected_acceptance": 0.25, "acceptance_per_position": [0.75], "draft_ms_per_call": 4.5,
        "draft_calls": 12, "seconds": 5.5, "speedup_vs_ar": 6.5, "end_to_end_speedup_vs_ar": 7.5,
    }  # fmt: skip
    rows = [SPOKEN | values]
    heading, _, line = render_markdown(comparison_rows(rows), comparison_columns(rows)).splitlines()
    cells = [[cell.strip() for cell in text.strip("|").split("|")] for text in (heading, line)]
    assert dict(zip(*cells, strict=True)) == {
        "strategy": "ar", "exact": "yes", "WER %": "5.00", "95 % interval by speaker": "4.01-6.02", "same as ar": "8/9",
        "calls": "11", "tokens/call": "1.50", "ceiling": "2.50", "mean accepted": "3.50", "stayed %": "50.0",
        "sum min(p, q) %": "25.0", "accepted by position %": "75", "draft ms": "4.50", "draft calls": "12",
        "decoder s": "5.50", "speed-up": "6.50", "end to end": "7.50", "RTFx": "20.0",
    }  # fmt: skip


def test_cells_of_a_row() -> None:
    row = shown(label="tree:paths=0.1", acceptance_per_position=[0.999, 0.5, *[0.1] * 7], near_ties=[1, 2])
    assert (row["name"], row["positions"]) == ("tree:paths=2 nodes", "100 50 10 10 10 10 10 10")
    assert (row["interval"], row["same"], shown()["same"], shown()["positions"]) == (
        "-",
        "8/9 (2 near-ties)",
        "8/9",
        "-",
    )
    assert comparison_rows([SPOKEN])[0]["interval"] == "4.01-6.02"


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ({}, "yes"),
        ({"exact": False}, "no"),
        ({"seeded": False}, "in distribution"),
        ({"exact": False, "seeded": False}, "no"),
        ({"strategy": "ctc-only", "exact": False, "seeded": False}, "-"),
    ],
)
def test_what_a_row_promises(values: dict[str, Any], exact: str) -> None:
    assert shown(**values)["exact"] == exact


def test_the_expected_acceptance_is_shown_where_it_holds() -> None:
    shares = {"acceptance": 0.25, "expected_acceptance": 0.5}
    row = shown(**shares)
    assert (row["stayed"], row["expected"]) == (25.0, 50.0)
    assert (shown()["stayed"], shown()["expected"]) == (None, None)
    lossy = [shown(**shares, exact=False), *(shown(**shares, strategy=s) for s in ("oracle", "jacobi", "lookahead"))]
    assert [(row["stayed"], row["expected"]) for row in lossy] == [(25.0, None)] * 4


BEGIN = "9 utterances, batch size 2, greedy, float32 on cpu, seed 3"
MEANING = (
    "; calls and tokens count the prompt's call and end tokens; ceiling: tokens per call if every draft were right; "
    "times are of this run, strategies interleaved; decoder s: from the prompt on, with all drafting, that of a CTC "
    "head too"
)


def test_the_footnote_of_a_greedy_run() -> None:
    assert comparison_footnote([ROW]) == f"{BEGIN}{MEANING}."
    more = {"threads": 1, "drafts": "int8", "linear_maps": "plain", "normalizer": "whisper-en", "audio_seconds": 8.04}
    assert comparison_footnote([SPOKEN | more]) == (
        "9 utterances, 8.0 s of audio, batch size 2, greedy, float32 (heads draft in 8 bits) on cpu, 1 thread, linear "
        f"layers plain, seed 3, normaliser whisper-en{MEANING}; end to end: with features and encoder."
    )
    assert "on cpu, 2 threads, seed 3" in comparison_footnote([ROW | {"threads": 2, "drafts": "float32"}])


def test_the_footnote_of_drawn_tokens() -> None:
    drawn = ROW | {"sampling": {"temperature": 0.5, "top_p": 0.9, "seed": 3}}
    assert ", temperature 0.5, top_p 0.9, float32 on" in comparison_footnote([drawn])
    stayed = (
        " Stayed: accepted drafted tokens over those that were judged, a chain's up to its first refused one; beside "
        "it what a single draw should come to."
    )
    assert comparison_footnote([drawn, drawn | {"acceptance": 0.5}]).endswith(f".{stayed}")
    coupled = " In distribution: the tokens are others than `ar`'s with this seed, their distribution is the same."
    assert comparison_footnote([drawn, drawn | {"seeded": False}]).endswith(f".{coupled}")
    assert comparison_footnote([drawn, drawn | {"seeded": False, "exact": False}]).endswith("head too.")


def test_flags_notes_and_the_recommended_row_come_last() -> None:
    flagged = ROW | {"flagged": {"empty": 1, "limit": 2}}
    other = ROW | {"label": "verify", "flagged": {"limit": 5}}
    text = comparison_footnote([flagged, other], comparison_notes("data/test", peers=["a note"]))
    assert text.endswith("head too. Flagged in `ar`: 1 empty, 2 limit. a note.")
    for chosen_on, name in (("tune", "tune"), ("", "dev")):
        selection = StrategySelection(recommended="tree:paths=0.1", chosen_on=chosen_on)
        text = comparison_footnote([ROW], comparison_notes("data/test", selection))
        assert text.endswith(f"head too.\n\nTake `tree:paths=2 nodes`: the fastest exact strategy on {name}.")
    assert comparison_notes("d") == {"peers": [], "recommended": "", "chosen_on": "", "data": "d"}


def test_files_have_the_rows_and_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plotted: list[Any] = []
    monkeypatch.setattr(comparison_files, "plot_tradeoff", lambda *given: plotted.append(given))
    trees = ["tree:paths=0.1", "tree:paths=0.00"]  # of one number of nodes, so of one short name
    rows = [ROW, *(ROW | {"label": label} for label in trees)]
    texts = {row["label"]: {"b": "", "a": f"é {row['label']}"} for row in rows}
    notes = comparison_notes("d", StrategySelection(recommended="ar"))
    out = tmp_path / "new" / "out"
    assert write_comparison(Comparison(rows, texts), notes, out) == ""
    assert (
        json.loads((out / "compare.json").read_text()) == rows and json.loads((out / "notes.json").read_text()) == notes
    )
    page = (out / "compare.md").read_text(encoding="utf-8")
    assert page.startswith("| strategy ") and page.endswith(f"|\n\n{comparison_footnote(rows, notes)}\n")
    assert sorted(p.name for p in (out / "text").iterdir()) == ["ar", "tree_paths=2_nodes", "tree_paths=2_nodes_2"]
    assert (out / "text" / "ar" / "text").read_text(encoding="utf-8") == "a é ar\nb\n"
    assert (out / "text" / "tree_paths=2_nodes_2" / "text").read_text("utf-8") == "a é tree:paths=0.00\nb\n"
    assert plotted == [(rows, out / "compare.png", "speedup_vs_ar", "ar")]
    assert write_comparison(Comparison(rows, texts), notes, out) == "", "into a folder that is there"


def test_plots_show_error_rates_or_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plotted: list[Any] = []
    monkeypatch.setattr(comparison_files, "plot_tradeoff", lambda *given: plotted.append(given[1:]))
    assert plot_comparison([ROW, SPOKEN], tmp_path) == ""
    assert plotted == [
        (tmp_path / "compare.png", "tokens_per_call", ""), (tmp_path / "compare_seconds.png", "seconds", "")
    ]  # fmt: skip

    def fails(*_: Any) -> None:
        raise DataError("no matplotlib")

    monkeypatch.setattr(comparison_files, "plot_tradeoff", fails)
    assert plot_comparison([ROW], tmp_path) == "no matplotlib"
