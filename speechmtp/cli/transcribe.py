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
    add_live_options,
    add_model_option,
    add_out_option,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    add_strategy_options,
    sampling_names,
    sampling_of,
    settle_jobs,
)
from speechmtp.cli.streams import word_row
from speechmtp.collector import paused_collector
from speechmtp.errors import ConfigError
from speechmtp.models.bases.names import SPEECH_MODEL

if TYPE_CHECKING:
    from speechmtp.transcripts import Transcript

FORMATS = ("txt", "srt", "vtt", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp transcribe`."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files; - reads standard input")
    add_live_options(parser)
    add_model_option(parser, SPEECH_MODEL)
    add_strategy_options(parser)
    parser.add_argument("--output", choices=FORMATS, default=FORMATS[0],
                        help="txt (default): a line a file; json: an object a line, with segments, calls and tokens, "
                        "or live with every event; srt, vtt: subtitles")  # fmt: skip
    parser.add_argument("--json", action="store_const", dest="output", const="json", help="the same as --output json")
    parser.add_argument("--words", action="store_true",
                        help="json: every word with its times and confidence; srt, vtt: a cue a word")  # fmt: skip
    add_out_option(parser, "write a file NAME.txt, .json, .srt or .vtt for each here; needed for subtitles of several "
                   "files", required=False)  # fmt: skip
    add_run_options(parser, None)
    add_jobs_option(parser)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line per file, in the order given, with the file's name if there are several, or with --output another
    document. Each file that cannot be read is reported on stderr, the others go on, and the exit code is then 2."""
    if args.stream or args.mic:
        from speechmtp.cli.live import run_live

        return run_live(args, _given(args))
    if not args.files:
        raise ConfigError("FILE: none given, expected audio files, - for standard input, or --mic")
    if args.step is not None or args.rate is not None:
        raise ConfigError("--step, --rate: only with --stream or --mic; leave them out")
    with paused_collector():
        from speechmtp.cli.checks import check_strategies, open_recogniser
        from speechmtp.cli.streams import report
        from speechmtp.cli.warnings import warn_of
        from speechmtp.errors import DataError
        from speechmtp.listening import noise_key_of

    paths = _paths(args)
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
        words=args.words or args.output in ("srt", "vtt"),
    )  # fmt: skip
    flags: dict[str, tuple[str, ...]] = {}
    broken = 0
    for name, transcript in zip(args.files, found, strict=True):  # strict exhausts `found`, which closes the bar
        if isinstance(transcript, DataError):
            broken += 1
            report(f"error: {transcript}")
            continue
        flags[name] = transcript.flags
        text = _document(args, name, transcript, strategy.label)
        if paths:
            paths[name].write_text(text, encoding="utf-8")
        else:
            print(text, end="", flush=True)
    if broken and len(args.files) > 1:
        report(f"{broken} of {len(args.files)} files failed")
    warn_of(flags, "files")
    return 2 if broken else 0


def _given(args: argparse.Namespace) -> list[str]:
    """The options that were given and have no meaning for a live stream."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    names = ("out", "batch_size", "jobs", "draft_model", *sampling_names())
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != parser.get_default(name)]


def _paths(args: argparse.Namespace) -> dict[str, Path]:
    """The file to write for each file given, if --out is given. ConfigError for options that do not go together, names
    that would be the same, and a folder that cannot be made."""
    if args.words and args.output == "txt":
        raise ConfigError("--words: a line of text has no times; give --output json, srt or vtt")
    if args.out is None:
        if len(args.files) > 1 and args.output in ("srt", "vtt"):
            raise ConfigError(f"--output {args.output}: {len(args.files)} files in one document; give --out DIR")
        return {}
    folder, found = Path(args.out), dict[str, Path]()
    for name in args.files:
        path = folder / f"{'stdin' if name == '-' else Path(name).stem}.{args.output}"
        other = next((known for known, taken in found.items() if taken == path and known != name), None)
        if other is not None:
            raise ConfigError(f"--out {args.out}: {other} and {name} would both be {path.name}; rename one")
        found[name] = path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out}: {error.strerror or error}; give a folder that can be written") from error
    return found


def _document(args: argparse.Namespace, name: str, transcript: "Transcript", label: str) -> str:
    """The text to print or write for a file, in the format of --output."""
    from speechmtp.text.lines import one_line
    from speechmtp.words.subtitles import cues, srt, vtt

    if args.output == "json":
        return json.dumps(_row(name, transcript, label, args.words)) + "\n"
    if args.output == "txt":
        named = "" if len(args.files) == 1 or args.out is not None else f"{name}: "
        return one_line(f"{named}{transcript}") + "\n"
    return (srt if args.output == "srt" else vtt)(cues(transcript.segments, args.words))


def _row(name: str, transcript: "Transcript", label: str, with_words: bool) -> dict[str, Any]:
    """The JSON object of a transcript."""
    trace = transcript.trace
    row: dict[str, Any] = {"file": name, "text": transcript.text, "strategy": label, "calls": trace.calls}
    row |= {"flags": list(transcript.flags)} if transcript.flags else {}
    row |= {"language": transcript.language} if transcript.language else {}
    row |= {"tokens": trace.emitted, "tokens_per_call": trace.tokens_per_call, "finished": trace.finished}
    row["segments"] = [
        {"start": round(one.start, 2), "end": round(one.end, 2), "text": one.text, "flags": list(one.flags)}
        | ({"words": [word_row(word) for word in one.words]} if with_words else {})
        for one in transcript.segments
    ]
    return row
