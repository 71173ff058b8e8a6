"""text of audio files: any format, rate or number of channels that soundfile reads"""

import argparse
import json
import sys
from pathlib import Path

from speechmtp.cli.decode import chosen_strategy
from speechmtp.cli.options import (
    add_draft_options,
    add_run_options,
    add_sampling_options,
    batches,
    check_strategies,
    open_recogniser,
    sampling_of,
    stream_of,
)
from speechmtp.types import Result

WARNINGS = {
    "empty": "nothing was said",
    "limit": "stopped at the limit of tokens, the text may be cut",
    "repetition": "the text ends in a repetition",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp transcribe`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files")
    parser.add_argument("--model", default="default", help="model folder or embedded model (default: default)")
    parser.add_argument("--strategy", default="ctc", metavar="NAME", help="name or name:option=value,... (default ctc)")
    parser.add_argument("--depth", help="the strategy's depth")
    parser.add_argument("--theta", help="the strategy's threshold")
    parser.add_argument("--json", action="store_true", help="one JSON object a file, with calls and tokens")
    add_run_options(parser)
    add_draft_options(parser)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    """Prints one line a file, in the order given; the name stands before the text when there are several."""
    from speechmtp.audio.io import read_audio
    from speechmtp.cli.progress import track

    strategy, sampling = chosen_strategy(args), sampling_of(args)
    recogniser = open_recogniser(args)
    [strategy] = check_strategies([strategy], recogniser.runner)
    heard = {
        str(i): recogniser.hear(read_audio(name, recogniser.rate)[0], name)
        for i, name in enumerate(track(args.files, "hearing"))
    }
    results: dict[str, Result] = {}
    for group in batches(list(heard), heard, args.batch_size):
        streams = [stream_of(Path(args.files[int(n)]).stem) for n in group]  # as `decode` of an utterance so called
        rows = [heard[n] for n in group]
        results.update(zip(group, recogniser.decode(rows, strategy, sampling=sampling, streams=streams)))
    for index, name in enumerate(args.files):
        result = results[str(index)]
        for flag in result.trace.flags:
            print(f"speechmtp: warning: {name}: {WARNINGS[flag]}", file=sys.stderr)
        if args.json:
            trace = result.trace
            row = {"file": name, "text": result.text, "strategy": strategy.label, "calls": trace.calls}
            row |= {"flags": list(trace.flags)} if trace.flags else {}
            row |= {"tokens": trace.emitted, "tokens_per_call": trace.tokens_per_call, "finished": trace.finished}
            print(json.dumps(row))
        else:
            print(result.text if len(args.files) == 1 else f"{name}: {result.text}")
    return 0
