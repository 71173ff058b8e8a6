"""The table of a comparison: its columns, rows and footnote."""

from collections.abc import Mapping, Sequence
from typing import Any

from speechmtp.scoring.tables import Column, short_label

# Their drafts use the trunk's own sampling noise, so the acceptance of independent samples does not apply.
_GUESSED = ("oracle", "jacobi", "lookahead")


def comparison_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """Columns of the table on screen and in compare.md; optional ones only if some row has a value."""
    scored, timed, drawn = (any(row.get(key) is not None for row in rows) for key in ("wer", "rtfx", "acceptance"))
    return [
        Column("name", "strategy"), Column("exact"),
        *([Column("wer", "WER %"), Column("interval", interval_title(rows))] if scored else []),
        Column("same", "same as ar"), Column("trunk_calls", "calls"), Column("tokens_per_call", "tokens/call"),
        Column("oracle_tokens_per_call", "ceiling"), Column("mean_acceptance_length", "mean accepted"),
        *([Column("stayed", "stayed %", 1), Column("expected", "sum min(p, q) %", 1)] if drawn else []),
        Column("positions", "accepted by position %"), Column("draft_ms_per_call", "draft ms"),
        Column("draft_calls", "draft calls"), Column("seconds", "decoder s"), Column("speedup_vs_ar", "speed-up"),
        *([Column("end_to_end_speedup_vs_ar", "end to end"), Column("rtfx", "RTFx", 1)] if timed else []),
    ]  # fmt: skip


def interval_title(rows: Sequence[Mapping[str, Any]]) -> str:
    """The title of the column of intervals, with the unit that was resampled; older rows do not name it."""
    unit = next((row["wer_unit"] for row in rows if row.get("wer_unit")), "")
    return f"95 % interval by {unit}" if unit else "95 % interval"


def comparison_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of compare.json with names, intervals and shares formatted for display."""
    shown = []
    for row in rows:
        interval = "-" if row["wer_low"] is None else f"{row['wer_low']:.2f}-{row['wer_high']:.2f}"
        same = f"{row['identical_to_ar']}/{row['utterances']}"
        if row["near_ties"]:
            same += f" ({len(row['near_ties'])} near-ties)"
        exact = "-" if row["strategy"] == "ctc-only" else "yes" if row["exact"] else "no"
        if exact == "yes" and not row.get("seeded", True):
            exact = "in distribution"
        rates = row.get("acceptance_per_position")
        shares = (row.get("acceptance"), row.get("expected_acceptance"))
        shown.append(row | {
            "name": short_label(row["label"]), "interval": interval, "same": same, "exact": exact,
            "positions": " ".join(f"{100 * rate:.0f}" for rate in rates[:8]) if rates else "-",
            "stayed": None if shares[0] is None else 100 * shares[0],
            # The expectation does not hold for rules that change the distribution either.
            "expected": 100 * shares[1] if shares[1] is not None and exact != "no" and row["strategy"] not in _GUESSED
            else None,
        })  # fmt: skip
    return shown


def comparison_footnote(rows: Sequence[dict[str, Any]], notes: Mapping[str, Any] | None = None) -> str:
    """The explanation below the table: settings, meaning of the columns, and the recommended strategy. `notes` are
    those of `comparison_files.comparison_notes`."""
    row, notes = rows[0], notes or {}
    threads = f", {row['threads']} thread{'s' * (row['threads'] > 1)}" if row.get("threads") else ""
    audio = f", {row['audio_seconds']:.1f} s of audio" if row.get("audio_seconds") else ""
    normalizer = f", normaliser {row['normalizer']}" if row.get("normalizer") else ""
    drafts = " (heads draft in 8 bits)" if row.get("drafts") == "int8" else ""
    maps = f", linear layers {row['linear_maps']}" if row.get("linear_maps") else ""
    sampling = ", ".join(f"{key} {value}" for key, value in (row.get("sampling") or {}).items() if key != "seed")
    text = (
        f"{row['utterances']} utterances{audio}, batch size {row['batch_size']}, {sampling or 'greedy'}, "
        f"{row['dtype']}{drafts} on {row['device']}{threads}{maps}, seed {row['seed']}{normalizer}; calls and "
        f"tokens count the prompt's call and end tokens; ceiling: tokens per call if every draft were right; times are "
        f"of this run, strategies interleaved; decoder s: from the prompt on, with all drafting, that of a CTC head too"
    )
    text += "; end to end: with features and encoder." if row.get("rtfx") else "."
    if any(r["exact"] and not r.get("seeded", True) for r in rows):
        text += " In distribution: the tokens are others than `ar`'s with this seed, their distribution is the same."
    if any(r.get("acceptance") is not None for r in rows):
        text += (
            " Stayed: accepted drafted tokens over those that were judged, a chain's up to its first refused one; "
            "beside it what a single draw should come to."
        )
    flagged = {flag: r["flagged"][flag] for r in rows for flag in r.get("flagged", {}) if r["label"] == "ar"}
    if flagged:
        text += " Flagged in `ar`: " + ", ".join(f"{count} {flag}" for flag, count in flagged.items()) + "."
    for note in notes.get("peers", ()):
        text += f" {note}."
    if notes.get("recommended"):
        name = short_label(notes["recommended"])
        text += f"\n\nTake `{name}`: the fastest exact strategy on {notes['chosen_on'] or 'dev'}."
    return text
