"""Does a draft change what a voice says, how many tokens does a call give, and in what time?

A voice speaks sentences with several seeds in float32, each with `ar` alone, and then with every strategy and number of
rows. Under shared noise all of them are to give the tokens of `ar`. Where tokens differ, the first differing one is
shown with its gap: the best score less that of the other's token, a score being log p (processors applied) plus the
noise, as `ar` itself computed them. A gap below `--near` is a near-tie, which the order of sums in float32 decides. A
token that truncation (top-k, top-p) had left out there has no score: its gap is then that of the log probabilities
before truncation at the edge, marked `edge`. The exit status is 1 where a difference is no near-tie.

The second table has tokens a call, the share of drafts whose tokens were accepted up to each depth, and decoder seconds
beside `ar`, one row at a time, all taking turns sentence by sentence. Strategies of other rules (`rule=ratio`) are in
this table alone: they draw the same distribution with other noise.

    python benchmarks/voice_exact.py --texts sentences.txt --number 200 --seeds 0,1,2 --rows 1,8 --out exact
"""

import argparse
import json
import platform
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from sides import HERE, commit_of, facts_below, processor, turns

import speechmtp
from speechmtp.data.tables import read_table
from speechmtp.decoding.noise import TARGET, noise_of
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.types import Request, Trace, sum_traces

STRATEGIES = ("verify:depth=3", "verify:depth=7", "verify:depth=3,rule=ratio", "verify:depth=7,rule=ratio")


class Watched:
    """The processors of a row, which keep the logits of every call before and after them."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.reads_prefix = inner, inner is not None and inner.reads_prefix
        self.before, self.after = list[torch.Tensor](), list[torch.Tensor]()

    def __call__(self, logits: torch.Tensor, prefixes: Any) -> torch.Tensor:
        """Processed logits, as from the processors inside."""
        done = logits if self._inner is None else self._inner(logits, prefixes)
        self.before.append(logits[0, 0].double())
        self.after.append(done[0, 0].double())
        return done


def gap_of(voice: Any, request: Request, sampling: SamplingConfig, at: int, mine: int, other: int) -> tuple[float, str]:
    """The best score less that of token `other` at output index `at` in plain decoding, and `edge` where truncation
    left `other` out. ConfigError if plain decoding does not say `mine` there."""
    row = RowSampling.of(sampling)
    watched: Any = Watched(row.processors)
    tokens, _ = voice.runner.run([request], [parse_strategy("ar")], replace(row, processors=watched))
    if tokens[0][at] != mine:
        raise ConfigError(f"plain decoding said {tokens[0][at]} at {at} when asked again, {mine} expected")
    logits = watched.after[at]
    noise = noise_of([sampling.seed], [request.noise_key], torch.device("cpu"))
    scores = logits.log_softmax(-1) + noise.gumbel(torch.tensor([[at]]), len(logits), TARGET)[0, 0]
    if torch.isfinite(scores[other]):
        return float(scores[mine] - scores[other]), ""
    before = (watched.before[at] / sampling.temperature).log_softmax(-1)
    return float(before[torch.isfinite(logits)].min() - before[other]), "edge"


@dataclass
class Cell:
    """What one strategy said with one number of rows, and how many of its outputs differ from those of `ar`."""

    strategy: str
    rows: int
    outputs: int = 0
    tokens: int = 0
    differing: list[dict[str, Any]] = field(default_factory=list)

    def line(self, near: float) -> dict[str, Any]:
        """A line of the table."""
        gaps = [one["gap"] for one in self.differing]
        return {"strategy": self.strategy, "rows": self.rows, "outputs": self.outputs, "tokens": self.tokens,
                "differing": len(gaps), "near": sum(gap < near for gap in gaps),
                "gap": max(gaps, default=None)}  # fmt: skip


def shares_noise(strategy: Strategy) -> bool:
    """Whether a strategy's output under sampling is that of plain decoding with the same seed."""
    return strategy.exact and strategy.rule is not None and strategy.rule.draws == "shared"


def said(
    voice: Any, requests: Sequence[Request], strategy: Strategy, sampling: SamplingConfig, rows: int
) -> Iterator[Any]:
    """Results, decoded so many rows at a time."""
    for at in range(0, len(requests), rows):
        yield from voice.decode(requests[at : at + rows], strategy, sampling)


def compared(voice: Any, requests: Sequence[Request], args: argparse.Namespace) -> list[Cell]:
    """Every strategy and number of rows against `ar`, one row at a time, over all seeds."""
    wanted = [("ar", rows) for rows in args.rows if rows != 1]
    wanted += [(name, rows) for name in args.strategy if shares_noise(parse_strategy(name)) for rows in args.rows]
    cells = [Cell(name, rows) for name, rows in wanted]
    for seed in args.seeds:
        sampling = voice.sampling_with(seed)
        plain = [list(one.tokens) for one in said(voice, requests, parse_strategy("ar"), sampling, 1)]
        for cell in track(cells, f"seed {seed}"):
            strategy = voice.runner.prepared(parse_strategy(cell.strategy))
            results = said(voice, requests, strategy, sampling, cell.rows)
            for number, (request, mine, result) in enumerate(zip(requests, plain, results)):
                other = list(result.tokens)
                cell.outputs, cell.tokens = cell.outputs + 1, cell.tokens + len(mine)
                if other == mine:
                    continue
                at = next((i for i, (a, b) in enumerate(zip(mine, other)) if a != b), min(len(mine), len(other)))
                if len(mine) != len(other):
                    raise ConfigError(
                        f"{cell.strategy}: {len(other)} tokens for sentence {number}, {len(mine)} planned"
                    )
                gap, edge = gap_of(voice, request, sampling, at, mine[at], other[at])
                cell.differing.append({"strategy": cell.strategy, "rows": cell.rows, "seed": seed, "sentence": number,
                                       "token": at, "ar": mine[at], "other": other[at], "gap": gap,
                                       "edge": edge})  # fmt: skip
    return cells


def timed(voice: Any, requests: Sequence[Request], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Lines of tokens a call, acceptance by depth, and decoder seconds, in turns."""
    names = ["ar", *args.strategy]
    chosen = {name: voice.runner.prepared(parse_strategy(name)) for name in names}
    seconds, traces = defaultdict[str, float](float), defaultdict[str, list[Trace]](list)
    some = requests[: args.timed or None]
    for name in names:
        voice.decode(some[:1], chosen[name], voice.sampling_with(0))  # the first call is slower
    for seed in args.seeds:
        sampling = voice.sampling_with(seed)
        for place, request in enumerate(track(some, f"times, seed {seed}")):
            for name in turns(names, place):
                result = voice.decode([request], chosen[name], sampling)[0]
                seconds[name] += result.seconds
                traces[name].append(result.trace)
    lines = []
    for name in names:
        total = sum_traces(traces[name])
        reached = [count / total.num_drafts for count in total.num_accepted_tokens_per_pos]
        lines.append({
            "strategy": name, "rule": "ratio" if not shares_noise(chosen[name]) else "coupling" if name != "ar" else "",
            "per call": total.tokens_per_call, "seconds": seconds[name], "of ar": seconds["ar"] / seconds[name],
            "depths": " ".join(f"{share:.3f}" for share in reached), "calls": total.calls, "emitted": total.emitted,
        })  # fmt: skip
    return lines


def requests_of(voice: Any, files: Sequence[str], number: int) -> list[Request]:
    """Requests of so many sentences, each with a noise key of its own; ConfigError where there are fewer."""
    texts = [text for file in files for text in read_table(file).values()]
    found: list[Request] = []
    for text in texts:
        for planned in voice.plan(text):
            if planned.request is not None and len(found) < number:
                found.append(replace(planned.request, noise_key=len(found)))
    if len(found) < number:
        raise ConfigError(f"--texts: {len(found)} sentences, {number} expected; give more files")
    return found


def compare(args: argparse.Namespace) -> int:
    """Decode, print the tables, write them."""
    torch.set_num_threads(1)
    voice: Any = speechmtp.load_voice(args.voice) if args.voice else speechmtp.load_voice()
    requests = requests_of(voice, args.texts, args.number)
    cells = [] if args.timed_only else compared(voice, requests, args)
    lines = timed(voice, requests, args)
    text = ""
    if cells:
        text += render_markdown([cell.line(args.near) for cell in cells], [
            Column("strategy"), Column("rows"), Column("outputs"), Column("tokens"),
            Column("differing", "outputs that differ from ar"), Column("near", f"near-ties (gap < {args.near:g})"),
            Column("gap", "largest gap", 7),
        ]) + "\n"  # fmt: skip
    differing = [one for cell in cells for one in cell.differing]
    if differing:
        keys = ("strategy", "rows", "seed", "sentence", "token", "ar", "other")
        text += render_markdown(differing, [*(Column(key) for key in keys), Column("gap", digits=8), Column("edge")])
        text += "\n"
    text += render_markdown(lines, [
        Column("strategy"), Column("rule"), Column("per call", "tokens a call"),
        Column("depths", "accepted to depth 1, 2, ..."), Column("seconds", "decoder s"),
        Column("of ar", "times as fast as ar"), Column("calls"), Column("emitted", "tokens"),
    ])  # fmt: skip
    facts = {
        "command": shlex.join(["python", *sys.argv]), "commit": commit_of(HERE.parent), "voice": repr(voice),
        "sampling": voice.sampling_with(0).described(), "sentences": len(requests), "seeds": args.seeds,
        "machine": processor(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    text += "\n" + facts_below(facts)
    print(text)
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "voice_exact.md").write_text(text, encoding="utf-8")
        kept = {"cells": [cell.line(args.near) for cell in cells], "differing": differing, "strategies": lines}
        (out / "voice_exact.json").write_text(json.dumps(facts | kept, indent=1) + "\n", encoding="utf-8")
    return int(any(one["gap"] >= args.near for one in differing))


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voice", default="", help="name or folder (default: the embedded one)")
    parser.add_argument("--texts", action="append", required=True, metavar="FILE", help="lines `id text`")
    parser.add_argument("--number", type=int, default=200, metavar="N", help="sentences")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="N,...")
    parser.add_argument("--rows", type=numbers, default=[1, 8], metavar="N,...", help="decoded together")
    parser.add_argument("--strategy", action="append", default=[], help=f"default: {', '.join(STRATEGIES)}")
    parser.add_argument("--near", type=float, default=1e-4, metavar="GAP", help="below it a gap is a near-tie")
    parser.add_argument("--timed", type=int, default=0, metavar="N", help="sentences that are timed (default: all)")
    parser.add_argument("--timed-only", action="store_true", help="leave out the first table")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for voice_exact.md and voice_exact.json")
    args = parser.parse_args(argv)
    args.strategy = args.strategy or list(STRATEGIES)
    try:
        return compare(args)
    except SpeechMTPError as error:
        print(f"voice_exact: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
