"""What does it cost to decode the passes of four live sessions together, against one after another?

Passes are those of streams over the recordings, with the prefixes and the tokens of the pass before that they had. They
are put in sets of four of different recordings and of similar length, in classes of length, and in sets of any length.
Each set is decoded together and apart in turns; its times are the least of the rounds, in milliseconds of processor
time a pass. Encoding is always apart, and is shown beside.

    python benchmarks/live_batch.py DATA_DIR [--model default] [--strategy S] [--sets 6] [--rounds 5]
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import speechmtp
from speechmtp.data.kaldi import Utterance, read_data_dir
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.strategies import Strategy
from speechmtp.progress import track
from speechmtp.recognition import RecognitionModel
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.passes import request_of, run_passes, strategy_of
from speechmtp.streaming.session import Session
from speechmtp.types import Request

CLASSES = ((0.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 25.0), (0.0, 25.0))  # seconds of windows
Waiting = tuple[str, Request]  # a pass: of which recording, and what is decoded


def passes(model: RecognitionModel, strategy: Strategy, utterance: Utterance, step: float) -> list[Waiting]:
    """The passes of a stream over one recording."""
    session = Session(model, StreamConfig(step=step))
    session.feed(utterance.load(model.rate))
    session.finish()
    found = []
    while (due := session.next_pass()) is not None:
        found.append((utterance.id, request_of(model, session, due)))
        run_passes(model, strategy, [(session, due)])
    return found


def sets_of(
    waiting: Sequence[Waiting], low: float, high: float, count: int, rows: int, seed: int
) -> list[list[Request]]:
    """`count` sets of `rows` passes of different recordings over windows of `low` to `high` seconds."""
    draw = random.Random(seed)
    mine: dict[str, list[Request]] = {}
    for name, request in waiting:
        if low <= request.audio_seconds < high:
            mine.setdefault(name, []).append(request)
    if len(mine) < rows:
        return []
    return [[draw.choice(mine[name]) for name in draw.sample(sorted(mine), rows)] for _ in range(count)]


def cpu(run: Callable[[], object]) -> float:
    """Processor seconds of a call in this thread."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def measured(model: RecognitionModel, strategy: Strategy, sets: Sequence[list[Request]], rounds: int) -> dict[str, Any]:
    """Milliseconds a pass of sets together and apart, calls, and the ratio."""
    recorded, least = Recorded(logprobs=True), {"apart": 0.0, "together": 0.0}
    calls, turns, rows = 0, 0, len(sets[0])
    for requests in sets:
        apart = [model.decode([one], strategy, recorded=recorded)[0] for one in requests]
        together = model.decode(requests, strategy, recorded=recorded)
        assert [one.tokens for one in apart] == [one.tokens for one in together]
        calls += sum(one.trace.calls for one in together)
        turns += max(one.trace.calls for one in together)
        ways = {
            "apart": lambda mine=requests: [model.decode([one], strategy, recorded=recorded) for one in mine],
            "together": lambda mine=requests: model.decode(mine, strategy, recorded=recorded),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                seconds[name].append(cpu(ways[name]))
        for name in ways:
            least[name] += min(seconds[name])
    count = rows * len(sets)
    shown = {name: 1000 * value / count for name, value in least.items()}
    heard = [request for requests in sets for request in requests]
    return {
        "sets": len(sets), "seconds": sum(one.audio_seconds for one in heard) / count, "calls": calls / count,
        "share": turns * rows / calls, "encoder": 1000 * sum(one.listen_seconds for one in heard) / count,
        **shown, "ratio": shown["together"] / shown["apart"],
    }  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="Kaldi data directory")
    parser.add_argument("--root", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--model", default="default", help="model folder or name")
    parser.add_argument("--strategy", default="", help="default: that of a stream")
    parser.add_argument("--step", type=float, default=0.5, help="seconds between passes")
    parser.add_argument("--first", type=int, default=16, help="recordings that passes are taken of")
    parser.add_argument("--rows", type=int, default=4, help="passes decoded together")
    parser.add_argument("--sets", type=int, default=6, help="sets of each class")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = speechmtp.load(options.model, "cpu")
    strategy = strategy_of(model, options.strategy)
    utterances = read_data_dir(options.data, options.root).utterances[: options.first]
    waiting = [one for each in track(utterances, "passes") for one in passes(model, strategy, each, options.step)]
    lines = []
    for low, high in CLASSES:
        sets = sets_of(waiting, low, high, options.sets, options.rows, options.seed)
        if sets:
            lines.append({"windows": f"{low:g} to {high:g} s", **measured(model, strategy, sets, options.rounds)})
    columns = [
        Column("windows"), Column("sets"), Column("seconds", "mean s", 1), Column("calls", "calls a pass"),
        Column("share", "calls of the longest"), Column("encoder", "encoder ms", 1), Column("apart", "apart ms", 2),
        Column("together", "together ms", 2), Column("ratio", "ratio", 3),
    ]  # fmt: skip
    print(render_markdown(lines, columns))
    print(f"{strategy.label}, {options.rows} together, passes of {len(utterances)} recordings, one thread")


if __name__ == "__main__":
    main()
