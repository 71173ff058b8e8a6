"""score hypotheses against a data directory's text: WER with interval, CER, details by utterance

Joins by utterance id. The exit code is 1 when hypotheses are missing or extra without permission, or when
a table is defective (a duplicate id, for instance); the files are written and the line printed in the first
two cases, so that the damage can be looked at. DATA needs `text`, and `utt2spk` is used where it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.errors import ConfigError, DataError
from speechmtp.text.normalize import NORMALIZERS

if TYPE_CHECKING:
    from speechmtp.scoring.intervals import Interval
    from speechmtp.scoring.wer import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp score`."""
    parser.add_argument("data", metavar="DATA", help="Kaldi data directory with the reference text")
    parser.add_argument("hyp", metavar="HYP_TEXT", help="hypotheses, a Kaldi text file")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for summary.json, wer, per_utt, per_spk and ops (else printed only)",
    )
    parser.add_argument(
        "--normalizer", default="kaldi-basic", help=f"{', '.join(NORMALIZERS)} (default kaldi-basic), on both sides"
    )
    parser.add_argument(
        "--spelling-map", metavar="JSON", help="British to American spellings for whisper-en (default: none)"
    )
    parser.add_argument("--allow-missing", action="store_true", help="missing hypotheses are deletions, but no failure")
    parser.add_argument(
        "--allow-extra", action="store_true", help="hypotheses without a reference are left out, no failure"
    )
    parser.add_argument(
        "--sclite", action="store_true", help="NIST sclite's costs 4/3/3 (case as the normaliser leaves it)"
    )
    parser.add_argument(
        "--keep-space", action="store_true", help="count spaces as characters in the CER (default: removed)"
    )
    parser.add_argument(
        "--against",
        metavar="OTHER",
        help="compare with a second text file, or with the --out folder of an earlier scoring",
    )
    parser.add_argument(
        "--force", action="store_true", help="compare although the normalisers or alignment costs differ"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default 0)")


def run(args: argparse.Namespace) -> int:
    """Scores, prints, writes; returns 0, or 1 for defective input or mismatches that were not allowed."""
    if args.seed < 0:
        raise ConfigError(f"--seed: {args.seed}, a number of 0 or more expected")
    paths = [Path(args.data) / "text", Path(args.hyp)]
    if args.against is not None:
        paths.append(Path(args.against))
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file; name a data directory with text and a text file to score")
    try:
        return _score(args)
    except DataError as error:
        print(f"speechmtp: error: {error}", file=sys.stderr)
        return 1


def _score(args: argparse.Namespace) -> int:
    """Read the tables, print and write what is asked for, and return the exit code."""
    from speechmtp.data.tables import read_table
    from speechmtp.scoring.report import wer_interval, write_report

    refs = read_table(Path(args.data) / "text")
    speaker_table = Path(args.data) / "utt2spk"
    speakers = read_table(speaker_table) if speaker_table.exists() else None
    report = _report(args, refs, Path(args.hyp))
    interval = wer_interval(report, args.seed, speakers)
    _print_report(report, interval)
    if args.out:
        write_report(report, args.out, interval, speakers)
    problems = list(report.problems)
    if args.against is not None:
        problems.extend(_compare(args, refs, report, speakers))
    for problem in problems:
        print(f"speechmtp: error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _report(args: argparse.Namespace, refs: Mapping[str, str], hyp: Path) -> Report:
    """Score the text file `hyp` with the options of the command line."""
    from speechmtp.data.tables import read_table
    from speechmtp.scoring.wer import score
    from speechmtp.text.normalize import get_normalizer

    return score(
        refs,
        read_table(hyp),
        get_normalizer(args.normalizer, args.spelling_map),
        args.allow_missing,
        args.allow_extra,
        sclite=args.sclite,
        keep_space=args.keep_space,
    )


def _print_report(report: Report, interval: Interval) -> None:
    """Print Kaldi's lines, the first with its interval, then CER, raw WER and unusual utterances."""
    from speechmtp.scoring.report import interval_text, kaldi_lines

    first, *others = kaldi_lines(report)
    print(f"{first} {interval_text(interval)}", *others, sep="\n")
    cer, raw = ("-" if rate is None else f"{rate:.2f}" for rate in (report.cer, report.raw_wer))
    print(f"%CER {cer} (spaces {'kept' if report.keep_space else 'removed'})")
    print(f"normaliser {report.normalizer['id']}; %WER without it {raw}")
    oddities = {
        "empty hypotheses": report.empty,
        "empty references": report.empty_refs,
        "emptied by the normaliser": report.emptied,
    }
    for kind, ids in oddities.items():
        if ids:
            print(f"{len(ids)} {kind}: {' '.join(ids[:5])}{' …' if len(ids) > 5 else ''}")


def _compare(
    args: argparse.Namespace, refs: Mapping[str, str], report: Report, speakers: Mapping[str, str] | None
) -> list[str]:
    """Print the comparison with the other system (the first of the two); return the problems of its text."""
    from speechmtp.scoring.compare import compare, comparison_lines, read_system, scored_differently, system_of

    problems: list[str] = []
    if Path(args.against).is_dir():
        other = read_system(args.against, str(args.against))
    else:
        other_report = _report(args, refs, Path(args.against))
        other = system_of(other_report, str(args.against))
        problems.extend(f"{args.against}: {problem}" for problem in other_report.problems)
    own = system_of(report, str(args.hyp))
    if not args.force and (problem := scored_differently(other, own)):
        raise ConfigError(f"{problem}; score both alike, or pass --force")
    comparison = compare(other, own, seed=args.seed, speakers=speakers, force=args.force)
    print(*comparison_lines(comparison), sep="\n")
    if args.out:
        content = json.dumps(comparison, indent=2, ensure_ascii=False) + "\n"
        (Path(args.out) / "comparison.json").write_text(content, encoding="utf-8")
    return problems
