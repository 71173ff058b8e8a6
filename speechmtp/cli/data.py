"""check, mend, cut, join and describe Kaldi data directories; prepare a corpus

Exit codes: 0 clean or done (warnings alone are clean), 1 defects, 2 wrong usage or unreadable input.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from speechmtp.cli.streams import print_json
from speechmtp.errors import ConfigError, DataError

SUBSET_MODES = {
    "first": "the first N utterances by id",
    "last": "the last N utterances by id",
    "shortest": "the N shortest utterances",
    "per-spk": "at most N utterances of each speaker, evenly spaced",
    "speakers": "whole speakers drawn by --seed until there are at least N utterances",
    "random": "N utterances drawn by --seed",
    "hold-out": "whole speakers drawn by --seed, exactly N utterances where speakers add up to it",
}
LIST_MODES = {
    "spk-list": "the speakers of a file (first column)",
    "utt-list": "the utterances of a file (first column)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verbs of `speechmtp data` and their options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", help="what to do")
    _add_validate(verbs.add_parser("validate", help="list every defect with file, line and code; mend them"))
    _add_subset(verbs.add_parser("subset", help="take part of a data directory"))
    split = verbs.add_parser("split", help="split into N directories, speakers kept whole")
    split.add_argument("dir", metavar="DATA", help="data directory to split")
    split.add_argument("parts", metavar="N", type=int, help="number of parts")
    split.add_argument("--per-utt", action="store_true", help="split by utterance, speakers may be parted")
    split.add_argument("--out", metavar="DIR", help="holds 1 to N (default: DATA/splitN or DATA/splitNutt)")
    combine = verbs.add_parser("combine", help="join directories; an id in two of them is an error")
    combine.add_argument("out", metavar="OUT", help="data directory that is written")
    combine.add_argument("dirs", metavar="DATA", nargs="+", help="data directories to join")
    stats = verbs.add_parser("stats", help="hours, speakers, characters, durations")
    stats.add_argument("dirs", metavar="DATA", nargs="+", help="data directories to describe")
    stats.add_argument("--json", action="store_true", help="print JSON, a list of one object a directory")
    prepare = verbs.add_parser("prepare", help="write the data directories of a corpus")
    prepare.add_argument("corpus", metavar="CORPUS", help="name of the corpus; a wrong one lists those there are")
    prepare.add_argument("--source", metavar="DIR", help="folder (or archive) that has the corpus")
    prepare.add_argument("--out", metavar="DIR", required=True, help="gets a folder for each of its data directories")
    prepare.add_argument("--download", action="store_true", help="fetch the corpus into --source if it is not there")
    for verb in (split, combine, stats):
        _add_root(verb)


def _add_root(parser: argparse.ArgumentParser) -> None:
    """The --root option for relative audio paths."""
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="where relative audio paths start (default: info.json's root, SPEECHMTP_CORPORA, DATA, here)",
    )


def _add_validate(parser: argparse.ArgumentParser) -> None:
    """Options of `data validate`."""
    parser.add_argument("dir", metavar="DATA", help="data directory to check")
    parser.add_argument("--fix", action="store_true", help="mend what has one right answer (old files: .backup)")
    parser.add_argument("--fix-drop", action="store_true", help="--fix, and drop utterances that cannot be used")
    parser.add_argument(
        "--rename", action="store_true", help="with --fix: put speakers before ids where order needs it (E15)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-text", action="store_true", help="the set has no transcripts")
    parser.add_argument("--no-wav", action="store_true", help="the set has no wav.scp, or it is not looked at")
    parser.add_argument("--no-spk-sort", action="store_true", help="speakers need not be in order")
    parser.add_argument(
        "--empty-text", action="store_true", help="empty transcripts are warnings (sets not trained on)"
    )
    parser.add_argument("--allow-pipes", action="store_true", help="commands may stand in wav.scp (see decode)")
    parser.add_argument(
        "--check-audio",
        choices=("none", "header", "decode"),
        default="header",
        help="how far audio is read; decode also runs commands if they are allowed (default header)",
    )
    parser.add_argument(
        "--against",
        metavar="DIR",
        action="append",
        default=[],
        help="a set that must not share audio with this one, as train with test (E41); may be repeated",
    )
    _add_root(parser)


def _add_subset(parser: argparse.ArgumentParser) -> None:
    """Options of `data subset`."""
    parser.add_argument("dir", metavar="DATA", help="data directory to take from")
    parser.add_argument("out", metavar="OUT", help="data directory that is written")
    modes = parser.add_mutually_exclusive_group(required=True)
    for name, text in SUBSET_MODES.items():
        modes.add_argument(f"--{name}", metavar="N", type=int, help=text)
    for name, text in LIST_MODES.items():
        modes.add_argument(f"--{name}", metavar="FILE", help=text)
    parser.add_argument("--rest", metavar="DIR", help="gets the utterances not taken")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default 0)")
    _add_root(parser)


def run(args: argparse.Namespace) -> int:
    """Runs a verb; returns 0, or 1 where `validate` finds defects."""
    verbs = {
        "validate": _validate,
        "subset": _subset,
        "split": _split,
        "combine": _combine,
        "stats": _stats,
        "prepare": _prepare,
    }
    return verbs[args.verb](args)


def _validate(args: argparse.Namespace) -> int:
    """Lists (and fixes) defects."""
    from speechmtp.data.validation.fix import FixReport, fix_data_dir
    from speechmtp.data.validation.validate import CheckOptions, errors_in, render_defects, validate

    options = CheckOptions(
        root=args.root,
        need_text=not args.no_text,
        check_wav=not args.no_wav,
        speaker_order=not args.no_spk_sort,
        training=not args.empty_text,
        allow_pipes=args.allow_pipes,
        audio=args.check_audio,
        against=tuple(args.against),
    )
    if args.rename and not (args.fix or args.fix_drop):
        raise ConfigError("--rename: given alone, it goes with --fix")
    if args.fix or args.fix_drop:
        report = fix_data_dir(args.dir, options, drop=args.fix_drop, rename=args.rename)
    else:
        report = FixReport(defects=validate(args.dir, options))
    errors = len(errors_in(report.defects))
    warnings = len(report.defects) - errors
    if args.json:
        found = {
            "path": args.dir,
            "errors": errors,
            "warnings": warnings,
            "actions": report.actions,
            "changed": report.changed,
            "backup": None if report.backup is None else str(report.backup),
            "defects": [asdict(defect) for defect in report.defects],
        }
        print_json(found)
        return 1 if errors else 0
    for line in (*report.actions, *render_defects(report.defects)):
        print(line)
    if report.backup is not None:
        print(f"{args.dir}: rewrote {', '.join(report.changed)}; the old files are in {report.backup}")
    print(f"{args.dir}: {errors} defects, {warnings} warnings")
    return 1 if errors else 0


def _subset(args: argparse.Namespace) -> int:
    """Writes part of a directory."""
    from speechmtp.data.subset import subset

    names = [name.replace("-", "_") for name in (*SUBSET_MODES, *LIST_MODES)]
    mode = next(name for name in names if getattr(args, name) is not None)
    value = getattr(args, mode)
    taken, left = subset(args.dir, args.out, mode, value, args.seed, args.rest, args.root)
    print(f"{args.out}: {taken} utterances" + (f"; {args.rest}: {left}" if args.rest else ""))
    if mode == "hold_out" and taken != value:
        print(f"{args.out}: whole speakers do not add up to {value}, this is the nearest number above")
    return 0


def _split(args: argparse.Namespace) -> int:
    """Writes N parts."""
    from speechmtp.data.split import split

    for path in split(args.dir, args.parts, args.out, args.per_utt, args.root):
        print(str(path))
    return 0


def _combine(args: argparse.Namespace) -> int:
    """Writes the union."""
    from speechmtp.data.combine import combine

    count = combine(args.dirs, args.out, args.root)
    print(f"{args.out}: {count} utterances")
    return 0


def _stats(args: argparse.Namespace) -> int:
    """Prints what directories hold."""
    from speechmtp.data.stats import data_stats, render_stats

    found = [data_stats(path, args.root) for path in args.dirs]
    if args.json:
        print_json(found)
        return 0
    for stats in found:
        for line in render_stats(stats).split("\n"):
            print(line)
    return 0


def _prepare(args: argparse.Namespace) -> int:
    """Writes the data directories of a corpus."""
    import os

    from speechmtp.data.audio_paths import CORPORA_VARIABLE
    from speechmtp.data.corpora.table import corpus_named

    corpus, out = corpus_named(args.corpus), Path(args.out)
    place = args.source or os.environ.get(CORPORA_VARIABLE) or (out / "downloads" if args.download else None)
    if place is None:
        raise ConfigError(f"no --source: give the corpus folder, set {CORPORA_VARIABLE}, or add --download")
    source = Path(place)
    if not corpus.is_there(source):
        if not args.download:
            raise ConfigError(
                f"--source {source}: no {corpus.name} here, expected {corpus.needs}; give another folder"
                + (", or add --download" if corpus.url else "")
            )
        try:
            corpus.download(source)
        except DataError as error:
            raise DataError(f"{error}, or give the corpus folder with --source") from error
    for name, count in corpus.prepare(source, out).items():
        print(f"{out / name}: {count} utterances")
    return 0
