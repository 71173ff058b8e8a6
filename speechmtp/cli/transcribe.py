"""text of audio files: any rate, length, number of channels and format that libsndfile or an installed ffmpeg reads"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.decode import find_strategy
from speechmtp.cli.options import (
    add_draft_options,
    add_jobs_option,
    add_model_option,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    add_strategy_options,
    sampling_of,
    settle_jobs,
)
from speechmtp.collector import paused_collector
from speechmtp.models.bases.names import SPEECH_MODEL

if TYPE_CHECKING:
    from speechmtp.transcripts import Transcript


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp transcribe`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files; - reads standard input")
    add_model_option(parser, SPEECH_MODEL)
    add_strategy_options(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a file, with calls and tokens")
    add_run_options(parser, None)
    add_jobs_option(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line per file, in the order given, with the file's name if there are several. Each file that cannot be
    read is reported on stderr, the others go on, and the exit code is then 2."""
    with paused_collector():
        from speechmtp.cli.checks import check_strategies, open_recogniser
        from speechmtp.cli.streams import report
        from speechmtp.cli.warnings import warn_of
        from speechmtp.errors import ConfigError, DataError
        from speechmtp.listening import noise_key_of
        from speechmtp.text.lines import one_line

    if args.files.count("-") > 1:
        raise ConfigError(f"-: given {args.files.count('-')} times, expected once; standard input can be read once")
    if args.strategy:
        find_strategy(args)  # report a wrong one before anything is loaded
    sampling = sampling_of(args)
    settle_jobs(args)
    recogniser = open_recogniser(args)
    [strategy] = check_strategies([find_strategy(args, recogniser)], recogniser.runner, with_ctc=recogniser.has_ctc)
    keys = [noise_key_of(Path(name).stem) for name in args.files]
    sources: list[Any] = [sys.stdin.buffer if name == "-" else name for name in args.files]
    found = recogniser.transcribe_many(
        sources, None, strategy, args.batch_size, "return", progress=True, sampling=sampling, noise_keys=keys,
        language=args.language, task=args.task, names=args.files, jobs=args.jobs, threads=args.threads,
    )  # fmt: skip
    flags: dict[str, tuple[str, ...]] = {}
    broken = 0
    for name, transcript in zip(args.files, found, strict=True):  # strict exhausts `found`, which closes the bar
        if isinstance(transcript, DataError):
            broken += 1
            report(f"error: {transcript}")
            continue
        flags[name] = transcript.flags
        named = "" if len(args.files) == 1 else f"{name}: "
        line = _row(name, transcript, strategy.label) if args.json else one_line(f"{named}{transcript}")
        print(line, flush=True)
    if broken and len(args.files) > 1:
        report(f"{broken} of {len(args.files)} files failed")
    warn_of(flags, "files")
    return 2 if broken else 0


def _row(name: str, transcript: "Transcript", label: str) -> str:
    """The JSON object of a transcript for --json."""
    trace = transcript.trace
    row: dict[str, Any] = {"file": name, "text": transcript.text, "strategy": label, "calls": trace.calls}
    row |= {"flags": list(transcript.flags)} if transcript.flags else {}
    row |= {"language": transcript.language} if transcript.language else {}
    row |= {"tokens": trace.emitted, "tokens_per_call": trace.tokens_per_call, "finished": trace.finished}
    row["segments"] = [
        {"start": round(one.start, 2), "end": round(one.end, 2), "text": one.text, "flags": list(one.flags)}
        for one in transcript.segments
    ]
    return json.dumps(row)
