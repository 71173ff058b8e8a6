"""text of audio files: any format, rate, length or number of channels that soundfile reads"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.decode import chosen_strategy
from speechmtp.cli.options import (
    add_draft_options,
    add_run_options,
    add_sampling_options,
    add_speech_options,
    check_strategies,
    open_recogniser,
    sampling_of,
)
from speechmtp.recordings import BATCH

if TYPE_CHECKING:
    import numpy as np

    from speechmtp.recordings import Recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp transcribe`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument("--model", default="default", help="model folder or embedded model (default: default)")
    parser.add_argument("--strategy", metavar="NAME", help="name or name:option=value,... (default: the model's)")
    parser.add_argument("--depth", help="the strategy's depth")
    parser.add_argument("--theta", help="the strategy's threshold")
    parser.add_argument("--json", action="store_true", help="one JSON object a file, with calls and tokens")
    add_run_options(parser, BATCH)
    add_draft_options(parser)
    add_sampling_options(parser)
    add_speech_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line a file, in the order given; the name stands before the text when there are several. Files that
    cannot be read are told on stderr, a line each, and the exit code is 2."""
    from speechmtp.cli.recognise import Source, recognise_sources, warn_of

    if args.strategy:
        chosen_strategy(args)  # a wrong one is told before anything is loaded
    sampling = sampling_of(args)
    recogniser = open_recogniser(args)
    [strategy] = check_strategies([chosen_strategy(args, recogniser)], recogniser.runner, with_ctc=recogniser.has_ctc)
    sources = [Source(partial(_read, name, recogniser.rate), name, Path(name).stem) for name in args.files]
    broken: list[Exception] = []

    def tell(error: Exception) -> None:
        broken.append(error)
        print(f"speechmtp: error: {error}", file=sys.stderr)

    flags: dict[str, tuple[str, ...]] = {}
    done = recognise_sources(
        recogniser, sources, strategy, args.batch_size, sampling, tell, args.language, args.task
    )  # fmt: skip
    for source, _, result in done:
        flags[source.where] = result.trace.flags
        named = "" if len(sources) == 1 else f"{source.where}: "
        print(_row(source.where, result, strategy.label) if args.json else named + result.text, flush=True)
    warn_of(flags, "files")
    return 2 if broken else 0


def _read(name: str, rate: int) -> "np.ndarray":
    from speechmtp.audio.io import read_audio

    return read_audio(name, rate)[0]


def _row(name: str, result: "Recording", label: str) -> str:
    """The object of --json; `parts` where the recording was cut."""
    trace = result.trace
    row = {"file": name, "text": result.text, "strategy": label, "calls": trace.calls}
    row |= {"flags": list(trace.flags)} if trace.flags else {}
    row |= {"tokens": trace.emitted, "tokens_per_call": trace.tokens_per_call, "finished": trace.finished}
    if len(result.parts) > 1:
        row["parts"] = [
            {"start": round(start, 2), "end": round(end, 2), "text": part.text, "flags": list(part.trace.flags)}
            for (start, end), part in zip(result.spans, result.parts)
        ]
    return json.dumps(row)
