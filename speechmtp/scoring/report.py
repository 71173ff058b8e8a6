"""The output files of scoring: Kaldi's summary lines, per_utt, per_spk, ops and summary.json."""

import json
import os
import platform
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from speechmtp.scoring.align import Pair, operation
from speechmtp.scoring.intervals import Interval, bootstrap_interval, group_units
from speechmtp.scoring.wer import Counts, Report, UtteranceScore, percent, total

EPSILON = "***"  # Kaldi's symbol for the missing side of a pair
_OPERATION_NAMES = {"C": "correct", "S": "substitution", "D": "deletion", "I": "insertion"}


def wer_interval(report: Report, seed: int = 0, speakers: Mapping[str, str] | None = None) -> Interval:
    """The 95 % bootstrap interval of the report's WER: by speaker if at least 10 are given, else by utterance."""
    unit = group_units([u.utterance for u in report.utterances], speakers)
    errors = [u.counts.errors for u in report.utterances]
    words = [u.counts.ref_words for u in report.utterances]
    return bootstrap_interval(errors, words, seed, unit=unit)


def wer_line(counts: Counts, partial: bool = False) -> str:
    """Kaldi's `%WER 6.84 [ 1378 / 20138, 186 ins, 118 del, 1074 sub ]`, then [PARTIAL] if any are missing."""
    rate = percent(counts.errors, counts.ref_words)
    line = (
        f"%WER {'nan' if rate is None else format(rate, '.2f')} [ {counts.errors} / {counts.ref_words}, "
        f"{counts.ins} ins, {counts.del_} del, {counts.sub} sub ]"
    )
    return line + " [PARTIAL]" if partial else line


def kaldi_lines(report: Report) -> list[str]:
    """The three lines that Kaldi's compute-wer prints: %WER, %SER, and the number of scored sentences."""
    scored = len(report.utterances)
    ser = 0.0 if report.ser is None else report.ser
    return [
        wer_line(report.counts, bool(report.missing)),
        f"%SER {ser:.2f} [ {report.sentence_errors} / {scored} ]",
        f"Scored {scored} sentences, {len(report.missing)} not present in hyp.",
    ]


def interval_text(interval: Interval) -> str:
    """`95 % interval 5.61 to 9.32 by utterance`, with a warning below 30 units; a dash without a rate."""
    if interval.low is None or interval.high is None:
        return "95 % interval -"
    text = f"95 % interval {interval.low:.2f} to {interval.high:.2f} by {interval.unit}"
    return text if interval.reliable else f"{text}, unreliable: {interval.units} units"


def summarize(report: Report, interval: Interval) -> dict[str, Any]:
    """The content of summary.json: rates in percent (None where undefined), counts, ids of unusual utterances,
    settings."""
    counts = report.counts
    empty_refs = set(report.empty_refs)
    return {
        "wer": report.wer,
        "wer_low": interval.low,
        "wer_high": interval.high,
        "wer_sd": interval.sd,
        "cer": report.cer,
        "ser": report.ser,
        "raw_wer": report.raw_wer,
        "words": counts.ref_words,
        "ins": counts.ins,
        "del": counts.del_,
        "sub": counts.sub,
        "hits": counts.hits,
        "utterances": len(report.utterances),
        "sentence_errors": report.sentence_errors,
        "missing": len(report.missing),
        "extra": len(report.extra),
        "empty": len(report.empty),
        "empty_refs": len(report.empty_refs),
        "empty_ref_insertions": sum(u.counts.ins for u in report.utterances if u.utterance in empty_refs),
        "chars": sum(u.chars for u in report.utterances),
        "char_errors": sum(u.char_errors for u in report.utterances),
        "interval": {
            "level": 0.95,
            "unit": interval.unit,
            "units": interval.units,
            "draws": interval.draws,
            "seed": interval.seed,
            "reliable": interval.reliable,
        },
        "alignment": "sclite 4/3/3" if report.sclite else "1/1/1",
        "cer_spaces": "kept" if report.keep_space else "removed",
        "normalizer": dict(report.normalizer),
        "problems": list(report.problems),
        "ids": {
            "missing": list(report.missing),
            "extra": list(report.extra),
            "empty": list(report.empty),
            "empty_refs": list(report.empty_refs),
            "emptied_by_normalizer": list(report.emptied),
        },
        "versions": package_versions(),
    }


def write_report(
    report: Report, out: str | Path, interval: Interval, speakers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write `wer`, `per_utt`, `ops`, `per_spk` (with speakers) and `summary.json` to `out`; return the summary.

    An older summary is deleted first and the new one is written last, atomically: if it exists, all files are complete.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    summary = summarize(report, interval)
    _write(folder / "wer", kaldi_lines(report))
    _write(folder / "per_utt", per_utterance_lines(report.utterances))
    _write(folder / "ops", operation_lines(report.utterances))
    if speakers is None:
        (folder / "per_spk").unlink(missing_ok=True)  # of an earlier scoring
    else:
        _write(folder / "per_spk", per_speaker_lines(report.utterances, speakers))
    _write(folder / "summary.json", [json.dumps(summary, indent=2, ensure_ascii=False)])
    return summary


def per_utterance_lines(scores: Sequence[UtteranceScore]) -> list[str]:
    """Four lines per utterance: `id ref …`, `id hyp …`, `id op …` in columns, `id #csid C S I D`."""
    lines = []
    for score in scores:
        columns = [_column(pair) for pair in score.pairs]
        for row, name in enumerate(("ref", "hyp", "op")):
            cells = [score.utterance, name.ljust(3), *(column[row] for column in columns)]
            lines.append("  ".join(cells).rstrip())
        c = score.counts
        lines.append(f"{score.utterance}  #csid  {c.hits} {c.sub} {c.ins} {c.del_}")
    return lines


def operation_lines(scores: Sequence[UtteranceScore]) -> list[str]:
    """`operation ref hyp count` for each distinct pair, the most frequent first within an operation."""
    seen = Counter(pair for score in scores for pair in score.pairs)
    rows = [
        (_OPERATION_NAMES[operation(pair)], -number, pair[0] or EPSILON, pair[1] or EPSILON)
        for pair, number in seen.items()
    ]
    return [f"{name} {ref} {hyp} {-number}" for name, number, ref, hyp in sorted(rows)]


def per_speaker_lines(scores: Sequence[UtteranceScore], speakers: Mapping[str, str]) -> list[str]:
    """Kaldi's per_spk table: for each speaker, then SUM, a row of counts (raw) and one of percents (sys)."""
    rows = [["SPEAKER", "id", "#SENT", "#WORD", "Corr", "Sub", "Ins", "Del", "Err", "S.Err"]]
    by_speaker: dict[str, list[UtteranceScore]] = {}
    for score in scores:
        by_speaker.setdefault(speakers[score.utterance], []).append(score)
    groups = [(name, by_speaker[name]) for name in sorted(by_speaker, key=lambda name: name.encode())]
    for name, members in [*groups, ("SUM", list(scores))]:
        c = total(score.counts for score in members)
        wrong = sum(score.counts.errors > 0 for score in members)
        raw = [c.hits, c.sub, c.ins, c.del_, c.errors]
        sizes = [str(len(members)), str(c.ref_words)]
        rates = [_rate(value, c.ref_words) for value in raw]
        rows.append([name, "raw", *sizes, *map(str, raw), str(wrong)])
        rows.append([name, "sys", *sizes, *rates, _rate(wrong, len(members))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    ]


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that affect scores; None for those that are not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions["unicode"] = unicodedata.unidata_version
    for name in ("speechmtp", "numpy", "jiwer"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _column(pair: Pair) -> tuple[str, str, str]:
    """The three cells of one aligned pair, padded to one width."""
    ref, hyp = pair[0] or EPSILON, pair[1] or EPSILON
    width = max(len(ref), len(hyp))
    return ref.ljust(width), hyp.ljust(width), operation(pair).center(width)


def _rate(value: int, units: int) -> str:
    rate = percent(value, units)
    return "-" if rate is None else f"{rate:.2f}"


def _write(path: Path, lines: Sequence[str]) -> None:
    """Write `lines` to `path` atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(aside, path)
