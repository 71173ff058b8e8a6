"""How many decoder calls does it take to hear a growing recording again every half second?

Each recording is heard from its beginning up to 0.5 s, 1 s, .. and as a whole, as a live recogniser does that has no
encoder to stream with, and decoded by every strategy in turn; `previous` and `previous-heads` draft the tokens of the
pass before. Calls, tokens and decoder seconds are those of all passes; texts must be those of `ar`.

    python benchmarks/previous_pass.py DATA_DIR [--model default] [--strategies ar,verify,previous,previous-heads]
"""

import argparse
import math

import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import Utterance, read_data_dir
from speechmtp.decoding.strategies import Strategy, parse_strategies
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.types import PreviousPass, Result


def passes(recogniser: Recogniser, utterance: Utterance, strategies: list[Strategy], hop: float) -> list[list[Result]]:
    """For every strategy the results of all passes over one recording, strategies taking turns."""
    audio = utterance.load(recogniser.rate, False)
    ends = [round(k * hop * recogniser.rate) for k in range(1, math.ceil(len(audio) / recogniser.rate / hop))]
    results: list[list[Result]] = [[] for _ in strategies]
    for turn, end in enumerate([*ends, len(audio)]):
        heard = recogniser.listen(audio[:end], utterance.id)
        for place in range(len(strategies)):
            n = (place + turn) % len(strategies)
            known = PreviousPass(results[n][-1].tokens if results[n] else ())
            results[n] += recogniser.decode([heard.knowing(known)], strategies[n])
    return results


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--root")
    parser.add_argument("--model", default="default")
    parser.add_argument("--heads", action="append", default=[])
    parser.add_argument("--ctc", default="")
    parser.add_argument("--strategies", default="ar,verify,previous,previous-heads")
    parser.add_argument("--hop", type=float, default=0.5, help="seconds between passes")
    parser.add_argument("--first", type=int, default=10**6, metavar="N", help="of so many recordings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = load(args.model, "cpu", heads=args.heads, ctc=args.ctc)
    strategies = [recogniser.runner.prepared(strategy) for strategy in parse_strategies(args.strategies)]
    done: list[list[Result]] = [[] for _ in strategies]
    for utterance in track(read_data_dir(args.data, args.root).utterances[: args.first], "recordings"):
        for mine, found in zip(done, passes(recogniser, utterance, strategies, args.hop)):
            mine += found
    plain = next((n for n, strategy in enumerate(strategies) if strategy.label == "ar"), 0)
    rows = [
        {
            "name": strategy.label,
            "calls": sum(r.trace.calls for r in results) / len(results),
            "tokens": sum(len(r.tokens) for r in results) / len(results),
            "seconds": sum(r.seconds for r in results),
            "speed": sum(r.seconds for r in done[plain]) / sum(r.seconds for r in results),
            "same": sum(a.tokens == b.tokens for a, b in zip(results, done[plain])),
        }
        for strategy, results in zip(strategies, done)
    ]
    columns = [
        Column("name", "strategy"), Column("calls", "calls a pass"), Column("tokens", "tokens a pass"),
        Column("seconds", "decoder s"), Column("speed", "speed-up"), Column("same", f"same of {len(done[0])}"),
    ]  # fmt: skip
    print(render_markdown(rows, columns))


if __name__ == "__main__":
    main()
