"""Write the files of a comparison: figures, notes, the table as markdown, plots and texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechmtp.data.tables import write_table
from speechmtp.errors import SpeechMTPError
from speechmtp.evaluation.comparison import Comparison
from speechmtp.evaluation.selection import StrategySelection
from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
from speechmtp.scoring.plot import plot_tradeoff
from speechmtp.scoring.tables import render_markdown, short_label
from speechmtp.text.lines import one_line


def comparison_notes(
    data: str, selection: StrategySelection | None = None, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of notes.json. `peers` are notes on transformers' modes that were left out; a selection read from a
    file also has the recommended strategy and the name of the data that it was chosen on."""
    selection = selection or StrategySelection()
    return {"peers": list(peers), "recommended": selection.recommended, "chosen_on": selection.chosen_on, "data": data}


def write_comparison(comparison: Comparison, notes: dict[str, Any], folder: str | Path) -> str:
    """Write compare.json, notes.json, compare.md, `text/LABEL/text` of every row and the plots; `folder` is created if
    needed. Return why there is no plot; empty if there is one."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    rows = comparison.rows
    (out / "compare.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "notes.json").write_text(json.dumps(notes, indent=1) + "\n")
    table = render_markdown(comparison_rows(rows), comparison_columns(rows))
    (out / "compare.md").write_text(f"{table}\n{comparison_footnote(rows, notes)}\n", encoding="utf-8")
    for name, texts in zip(_folder_names(list(comparison.texts)), comparison.texts.values()):
        write_table(out / "text" / name / "text", {key: one_line(text).rstrip() for key, text in texts.items()})
    return plot_comparison(rows, out, notes.get("recommended", ""))


def plot_comparison(rows: Sequence[dict[str, Any]], folder: Path, recommended: str = "") -> str:
    """Draw the plots of a comparison; one only for a text LM, whose texts have no word error rate. Return why there is
    no plot; empty if there is one."""
    scored = any(row["wer"] is not None for row in rows)
    pictures = {"compare.png": "tokens_per_call", "compare_seconds.png": "seconds"}
    try:
        for name, x in (pictures if scored else {"compare.png": "speedup_vs_ar"}).items():
            plot_tradeoff(rows, folder / name, x, recommended)
    except SpeechMTPError as error:
        return str(error)
    return ""


def _folder_names(labels: Sequence[str]) -> list[str]:
    """A distinct folder name for each label; long labels of large trees are shortened."""
    short = [short_label(label).translate(str.maketrans(":, ", "___")) for label in labels]
    return [f"{name}_{short[:n].count(name) + 1}" if name in short[:n] else name for n, name in enumerate(short)]
