"""The tables of live recognition that was measured: words and their delays, and what computing took."""

from collections.abc import Mapping, Sequence
from typing import Any

from speechmtp.evaluation.tables import interval_title
from speechmtp.scoring.tables import Column, render_markdown, render_text


def word_columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns of the table of words: errors and delays."""
    return [
        Column("label", "stream"), Column("wer", "WER %"), Column("interval", interval_title(rows)),
        Column("first_text_mean", "first text s"), Column("first_word_mean", "first word s"),
        Column("delay_mean", "word delay mean"), Column("delay_median", "median"), Column("delay_p90", "p90"),
        Column("delay_p99", "p99"), Column("covered", "words %", 1), Column("shown_mean", "shown mean"),
        Column("shown_p90", "shown p90"), Column("flicker"), Column("final_mean", "final s"), Column("finals"),
    ]  # fmt: skip


def computing_columns() -> list[Column]:
    """Columns of the table of computing time."""
    return [
        Column("label", "stream"), Column("passes"), Column("calls"), Column("calls_per_pass", "calls/pass"),
        Column("encoder_ms_per_pass", "encoder ms/pass", 1), Column("decoder_ms_per_pass", "decoder ms/pass", 1),
        Column("decoder_per_encoder", "decoder/encoder"), Column("encoder_percent", "encoder %", 1),
        Column("decoder_percent", "decoder %", 1), Column("words_percent", "words' times %", 1),
        Column("vad_percent", "speech or not %", 1), Column("rest_percent", "rest %", 1),
        Column("seconds", "seconds", 1), Column("rtf", "real-time factor", 3),
    ]  # fmt: skip


def latency_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of latency.json with intervals and shares as they are shown."""
    shown = []
    for row in rows:
        shares = {name: row.get(f"{name}_share") for name in ("encoder", "decoder", "words", "vad")}
        percents = {f"{name}_percent": None if share is None else 100 * share for name, share in shares.items()}
        known = [value for value in percents.values() if value is not None]
        coverage = row.get("coverage")
        shown.append(dict(row) | percents | {
            "interval": "-" if row["wer_low"] is None else f"{row['wer_low']:.2f}-{row['wer_high']:.2f}",
            "covered": None if coverage is None else 100 * coverage,
            "rest_percent": 100 - sum(known) if known else None,
        })  # fmt: skip
    return shown


def latency_footnote(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The explanation below the tables."""
    calls = facts["ar_ms_per_call"]
    plain = "" if calls is None else f"; `ar` takes {calls:.2f} ms a call on whole utterances"
    silences = sorted({row["silence_ms"] for row in rows if row.get("silence_ms") is not None})
    after = f" after {', '.join(map(str, silences))} ms" if silences else ""
    count = f"{facts['utterances']} utterance{'s' * (facts['utterances'] != 1)}"
    kind = "processor seconds" if facts["device"] == "cpu" else "seconds"
    return (
        f"{facts['machine']}, {facts['dtype']} on {facts['device']}, {facts['threads']} thread"
        f"{'s' * (facts['threads'] != 1)}{plain}. {count}, {facts['audio_seconds']:.1f} s, "
        f"fed in pieces of {facts['piece_ms']} ms with {facts['silence']:g} s of silence behind each; normaliser "
        f"{facts['normalizer']}. Delays are seconds of audio, without computing, of words that are right (words %: how "
        f"many): from the end of a word until it was committed; shown: until it was on show for good; first text: from "
        f"the start of the first word to the first text on show; first word: the delay of the first committed one; "
        f"final: from the end of a segment's last word to its Final, where silence ended it{after}; flicker: words "
        f"that were shown and taken back, for each final word. Words are aligned by {facts['aligned_by']}. Times are "
        f"{kind}; speech or not is measured apart."
    )


def latency_tables(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], markdown: bool = False) -> str:
    """Both tables with their explanation, of the rows and facts of latency.json."""
    render, shown = render_markdown if markdown else render_text, latency_rows(rows)
    return "\n".join([
        render(shown, word_columns(shown)), render(shown, computing_columns()), latency_footnote(rows, facts) + "\n",
    ])  # fmt: skip
