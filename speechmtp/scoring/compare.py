"""Paired comparison of two systems on the same utterances, with a significance test."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechmtp.errors import ConfigError, DataError
from speechmtp.scoring.intervals import group_units, matched_pairs, paired_bootstrap
from speechmtp.scoring.report import EPSILON
from speechmtp.scoring.wer import Report, percent, split_words


@dataclass(frozen=True)
class System:
    """A scored system as a comparison needs it, from a report or from the files of an earlier scoring."""

    name: str
    normalizer: Mapping[str, Any]
    alignment: str  # the costs, as in summary.json
    errors: Mapping[str, int]  # utterance -> word errors
    references: Mapping[str, tuple[str, ...]]
    hypotheses: Mapping[str, tuple[str, ...]]


def system_of(report: Report, name: str) -> System:
    """The scored `report` as a system called `name`."""
    return System(
        name,
        report.normalizer,
        "sclite 4/3/3" if report.sclite else "1/1/1",
        {u.utterance: u.counts.errors for u in report.utterances},
        {u.utterance: u.reference for u in report.utterances},
        {u.utterance: u.hypothesis for u in report.utterances},
    )


def read_system(folder: str | Path, name: str | None = None) -> System:
    """Read the system whose `summary.json` and `per_utt` are in `folder`; DataError if they are missing or damaged."""
    summary_path, details = Path(folder) / "summary.json", Path(folder) / "per_utt"
    try:
        summary = json.loads(summary_path.read_text(encoding="utf-8"))
        normalizer, alignment = summary["normalizer"], summary["alignment"]
        lines = details.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: no complete scoring ({error}), summary.json and per_utt expected; score into that folder first"
        ) from error
    errors: dict[str, int] = {}
    sides: dict[str, dict[str, tuple[str, ...]]] = {"ref": {}, "hyp": {}}
    for number, line in enumerate(lines, 1):
        cells = split_words(line)
        if len(cells) < 2 or cells[1] == "op":
            continue
        utterance, kind = cells[:2]
        if kind in sides:
            sides[kind][utterance] = tuple(word for word in cells[2:] if word != EPSILON)
        elif kind == "#csid" and len(cells) == 6 and all(cell.isdecimal() for cell in cells[2:]):
            errors[utterance] = sum(int(cell) for cell in cells[3:])
        else:
            raise DataError(f"{details}:{number}: '{kind}' is no row of per_utt; score again")
    return System(name or Path(folder).name, normalizer, alignment, errors, sides["ref"], sides["hyp"])


def compare(
    first: System,
    second: System,
    *,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Compare two systems pairwise; return one flat dict, whose `delta` is first minus second, positive if second is
    better.

    Rates and differences are percent; undefined values are None. ConfigError if the normaliser records or alignment
    costs differ, and DataError if the references differ (neither with `force`); DataError always if the sets of
    utterances differ.
    """
    _check_comparable(first, second, force)
    ids = sorted(first.errors)
    errors_1, errors_2 = [first.errors[u] for u in ids], [second.errors[u] for u in ids]
    words = [len(first.references[u]) for u in ids]
    paired = paired_bootstrap(errors_1, errors_2, words, seed, unit=group_units(ids, speakers))
    test = matched_pairs(errors_1, errors_2)
    identical = sum(first.hypotheses[u] == second.hypotheses[u] for u in ids)
    return {
        "systems": [first.name, second.name],
        "utterances": len(ids),
        "words": sum(words),
        "identical": identical,
        "exact_match": percent(identical, len(ids)),
        "wer": [percent(sum(errors_1), sum(words)), percent(sum(errors_2), sum(words))],
        "delta": paired.delta,
        "delta_low": paired.low,
        "delta_high": paired.high,
        "probability_of_improvement": paired.improvement,
        "probability_of_tie": paired.ties,
        "z": test.z,
        "p": test.p,
        "unit": paired.unit,
        "units": paired.units,
        "draws": paired.draws,
        "seed": paired.seed,
        "normalizer": dict(second.normalizer),
    }


def scored_differently(first: System, second: System) -> str:
    """How the scorings of two systems differ, in normaliser or alignment costs; empty if they agree."""
    pair = f"{first.name} against {second.name}"
    if dict(first.normalizer) != dict(second.normalizer):
        names = [_record_name(system.normalizer) for system in (first, second)]
        return f"{pair}: normalised by {names[0]} and {names[1]}, one normaliser expected"
    if first.alignment != second.alignment:
        return f"{pair}: aligned with costs {first.alignment} and {second.alignment}, the same expected"
    return ""


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Three lines to print: identical texts, the difference with its interval, the test."""
    first, second = comparison["systems"]
    rates = [_number(rate, ".2f") for rate in comparison["wer"]]
    delta, low, high = (_number(comparison[key], "+.2f") for key in ("delta", "delta_low", "delta_high"))
    improvement, tie = comparison["probability_of_improvement"], comparison["probability_of_tie"]
    return [
        f"{first} against {second}: {comparison['identical']} of {comparison['utterances']} texts identical",
        f"%WER {rates[0]} against {rates[1]}: {delta} points, 95 % interval {low} to {high} by "
        f"{comparison['unit']}; {second} better in "
        f"{100 * improvement:.1f} % of draws, tied in {100 * tie:.1f} %",
        f"matched pairs: Z {_number(comparison['z'], '.2f')}, p {_number(comparison['p'], '.2g')}",
    ]


def _check_comparable(first: System, second: System, force: bool) -> None:
    pair = f"{first.name} against {second.name}"
    if not force and (problem := scored_differently(first, second)):
        raise ConfigError(f"{problem}; score both alike, or pass force=True")
    if set(first.errors) != set(second.errors):
        lone = sorted(set(first.errors) ^ set(second.errors))
        raise DataError(
            f"{pair}: {len(lone)} utterances in one of the two only ({lone[0]}), the same set expected; "
            "score both on one data directory"
        )
    other = [u for u in first.errors if first.references[u] != second.references[u]]
    if other and not force:  # with `force`, two normalisers may give different references
        raise DataError(
            f"{pair}: references differ in {len(other)} utterances ({other[0]}), the same expected; "
            "score both on one data directory"
        )


def _record_name(record: Mapping[str, Any]) -> str:
    return f"{record.get('id')}@{record.get('version')} ({str(record.get('sha256'))[:8]})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
