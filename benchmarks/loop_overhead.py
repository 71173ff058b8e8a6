"""Where does the time of a decoding call go: trunk, what drafts, or the loop around them?

Utterances of a data directory are decoded by every strategy that the model can run, and the time of each call is split
into the trunk's decoder with its unembedding, the forwards of heads and draft models, the drafter's own work around
them, and the rest of the loop: masks, cache, acceptance, noise, processors, trace. The functions are wrapped here; a
nested one takes its time away from the one around it. Strategies take turns batch by batch, and of every call the
median over rounds counts. On one CPU thread it is the thread's processor time, so that other work on the machine has
less part in it; else it is that of the clock. The share is the rest of the loop over what a trunk call of `ar` takes in
the same block. What is done once a batch (caches, plans, hypotheses) has a column of its own; noise is made for many
output indices at once, here mostly once an utterance, and counts for the loop.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --draft-model exp/small/model --write
"""

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import read_data_dir
from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.engine import Engine
from speechmtp.decoding.noise import Noise
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.evaluation.evaluation_sets import encode_all
from speechmtp.models.trunk import Trunk
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.types import Reference, Request

HERE = Path(__file__).parent
BEGIN, END = "<!-- loop_overhead.py -->", "<!-- end of loop_overhead.py -->"
HEADS = ("expand", "logits", "all_logits", "all_features", "advance")
PARTS = ("trunk", "forwards", "drafter", "rest", "noise", "once")
GREEDY = [*STRATEGIES, "dynamic-tree:width=8,nodes=64", "ctc:mode=tree", "verify:length=running"]
DRAWN = ["ar", "verify", "tree", "dynamic-tree", "dynamic-tree:width=8,nodes=64", "ctc", "ctc:mode=tree"]
DRAWN += ["verify:rule=ratio", "verify:rule=block", "tree:rule=ratio", "dynamic-tree:rule=ratio", "ctc:rule=ratio"]
PENALISED = ["ar", "verify", "tree", "dynamic-tree", "ctc", "ctc:mode=tree"]


class Clock:
    """Seconds by part, of each call of the loop and of all that is around them; only the innermost part's run."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: list[dict[str, float]] = []
        self.parts = ["outside"]
        self.mark = now()

    def turn(self) -> None:
        """Give what has passed to the part that was on."""
        now = self.now()
        self.seconds[self.parts[-1]] += now - self.mark
        self.mark = now

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The loop's call, kept by itself."""
        timed = self.timed(function, "rest")

        def wrapped(*args: Any) -> Any:
            self.turn()
            around, self.seconds = self.seconds, defaultdict(float)
            found = timed(*args)
            self.calls.append(self.seconds)
            self.seconds = around
            return found

        return wrapped

    def timed(self, function: Callable[..., Any], part: str, inside: str = "") -> Callable[..., Any]:
        """The function with its time given to `part`, or to `inside` where a drafter or a head is on."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.turn()
            self.parts.append(inside if inside and self.parts[-1] in ("drafter", "forwards") else part)
            try:
                return function(*args, **kwargs)
            finally:
                self.turn()
                self.parts.pop()

        return wrapped


def kinds(kind: Any) -> Iterator[type[Drafter]]:
    """All drafters."""
    for each in kind.__subclasses__():
        yield each
        yield from kinds(each)


@contextmanager
def clocked(recogniser: Recogniser, now: Callable[[], float] = time.perf_counter) -> Iterator[Clock]:
    """A clock on all that takes part in decoding."""
    clock, runner = Clock(now), recogniser.runner
    wanted: list[tuple[Any, str, str, str]] = [(type(runner), "run", "once", "")]
    trunks: list[Trunk] = [trunk for trunk in (runner.trunk, runner.draft) if trunk is not None]
    for trunk in trunks:
        wanted += [(trunk.model.get_decoder(), "forward", "trunk", "forwards"), (trunk, "unembed", "trunk", "forwards")]
    wanted += [(heads, name, "forwards", "") for heads in runner.heads.values() for name in HEADS]
    drafts = {"propose": "drafter", "observe": "drafter", "start": "once", "take": "drafter", "join": "drafter"}
    wanted += [(kind, name, part, "") for kind in kinds(Drafter) for name, part in drafts.items() if name in vars(kind)]
    wanted.append((Noise, "gumbel", "noise", "drafter"))
    changed = [mock.patch.object(owner, name, clock.timed(getattr(owner, name), *to)) for owner, name, *to in wanted]
    changed.append(mock.patch.object(Engine, "_call", clock.call(Engine._call)))
    for one in changed:
        one.start()
    try:
        yield clock
    finally:
        for one in changed:
            one.stop()


@dataclass(frozen=True)
class Block:
    """Lines of the table measured together."""

    title: str
    names: Sequence[str]
    rows: int
    sampling: SamplingConfig


class Bench:
    """A model, and utterances that it has heard."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.recogniser = load(options.model, options.device, draft_model=options.draft_model)
        data = read_data_dir(options.data, options.root)
        requests = encode_all(self.recogniser, data, False)[0]
        self.requests = [requests[name] for name in sorted(requests) if not requests[name].empty]
        self.rounds, self.utterances = options.rounds, options.utterances
        alone = self.recogniser.device.type == "cpu" and options.threads == 1
        self.now = time.thread_time if alone else time.perf_counter

    def usable(self, block: Block) -> list[Strategy]:
        """Those that call the trunk and have what they need."""
        found = []
        for name in block.names:
            with suppress(ConfigError):
                strategy = self.recogniser.runner.prepared(parse_strategy(name))
                if strategy.rule is not None:
                    if block.sampling.temperature == 0:
                        strategy.rule.greedy()  # some are for drawing alone
                    found.append(strategy)
        return found

    def decode(self, group: Sequence[Request], strategy: Strategy, sampling: SamplingConfig, known: Any) -> Any:
        """Tokens and traces."""
        requests = [replace(one, noise_key=i) for i, one in enumerate(group)]
        requests = [one.knowing(Reference(tuple(known[i]))) if known else one for i, one in enumerate(requests)]
        return self.recogniser.runner.run(requests, [strategy] * len(group), RowSampling.of(sampling))

    def run(self, block: Block) -> list[dict[str, Any]]:
        """The lines of a block."""
        strategies, plain = self.usable(block), parse_strategy("ar")
        heard = self.requests[: max(self.utterances, 2 * block.rows)]
        groups = [heard[i : i + block.rows] for i in range(0, len(heard), block.rows)]
        groups = [group for group in groups if len(group) == block.rows]
        known = [self.decode(group, plain, block.sampling, None)[0] for group in groups]
        lines: list[Line] = [Line(strategy) for strategy in strategies]
        for turn in range(self.rounds + 1):  # the first one warms up
            for number, group in enumerate(groups):
                for place in range(len(lines)):
                    line = lines[(place + turn + number) % len(lines)]
                    with clocked(self.recogniser, self.now) as clock:
                        _, traces = self.decode(group, line.strategy, block.sampling, known[number])
                    if turn:
                        line.add(number, clock, traces)
        trunk = next(line for line in lines if line.strategy.name == "ar").part("trunk")
        return [line.shown(trunk) for line in lines]


class Line:
    """Measured of one strategy: seconds of every call and, number -1, around them, of every batch and round."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.seconds: dict[tuple[int, int], list[dict[str, float]]] = defaultdict(list)
        self.drafted = self.calls = 0

    def add(self, batch: int, clock: Clock, traces: Sequence[Any]) -> None:
        """One batch, decoded once more."""
        for number, seconds in enumerate([clock.seconds, *clock.calls], -1):
            self.seconds[batch, number].append(seconds)
        self.drafted += sum(trace.num_draft_tokens for trace in traces)
        self.calls += sum(trace.calls for trace in traces)

    def part(self, name: str) -> float:
        """Milliseconds a call, `once` those around a batch's calls: a mean of medians over rounds, in which what the
        machine did besides has no part."""
        found = [
            statistics.median(one[name] for one in rounds)
            for (_, number), rounds in self.seconds.items()
            if (number < 0) == (name == "once")
        ]
        return 1000 * statistics.mean(found)

    def shown(self, trunk: float) -> dict[str, Any]:
        """A row of the table; `trunk`: milliseconds of a plain trunk call."""
        parts = {name: self.part(name) for name in PARTS}
        parts["rest"] += parts["noise"]
        share = f"{100 * parts['rest'] / trunk:.0f} %"
        return {"strategy": self.strategy.label, "drafted": self.drafted / self.calls, **parts, "share": share}


def blocks(seed: int) -> list[Block]:
    """All lines."""
    found = []
    for rows in (1, 16):
        found.append(Block(f"Temperature 0, batch {rows}", GREEDY, rows, SamplingConfig()))
    for rows in (1, 16):
        found.append(Block(f"Temperature 1, batch {rows}", DRAWN, rows, SamplingConfig(temperature=1.0, seed=seed)))
    penalty = SamplingConfig(repetition_penalty=1.1)
    return [*found, Block("Temperature 0, repetition penalty 1.1, batch 1", PENALISED, 1, penalty)]


def circumstances(options: argparse.Namespace) -> str:
    """Commit, device, seed, PyTorch, processor, command."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=HERE).stdout.strip()

    names = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", names)
    processor = model[1].strip() if model else platform.processor() or platform.machine()
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu, {options.threads} thread(s)"
    dirty = " with changes" if git("status", "--porcelain") else ""
    given = [word for word in sys.argv[1:] if word != "--write"]
    if options.draft_model:
        given[given.index(options.draft_model)] = Path(options.draft_model).name
    return (
        f"`{' '.join(['python benchmarks/loop_overhead.py', *given])}`, commit "
        f"{git('rev-parse', '--short', 'HEAD') or 'unknown'}{dirty}; model {options.model}, {device}, seed "
        f"{options.seed}, PyTorch {torch.__version__}, {processor}; {options.rounds} rounds of {options.utterances} "
        f"utterances (32 at batch 16)."
    )


COLUMNS = [
    Column("strategy"), Column("drafted", "drafted/row", 1), Column("trunk", "trunk ms"),
    Column("forwards", "heads, draft model ms"), Column("drafter", "drafter ms"), Column("rest", "loop ms"),
    Column("noise", "of it noise"),
    Column("share", "loop / trunk call of `ar`", align="right"), Column("once", "once a batch ms"),
]  # fmt: skip


def main() -> None:
    """Print the tables, and with --write put them into RESULTS.md between its markers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="an4")
    parser.add_argument("--data", default=str(HERE.parent / "egs/an4/asr1/data/dev"))
    parser.add_argument("--root", default=os.environ.get("SPEECHMTP_CORPORA"), help="root of relative audio paths")
    parser.add_argument("--draft-model", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=16)
    parser.add_argument("--only", default="", help="titles of blocks that contain this")
    parser.add_argument("--strategies", nargs="*", default=[], help="these alone, `ar` first")
    parser.add_argument("--write", action="store_true", help="into RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench, out = Bench(options), [circumstances(options)]
    print(out[0], flush=True)
    for block in blocks(options.seed):
        if options.only in block.title:
            chosen = Block(block.title, options.strategies or block.names, block.rows, block.sampling)
            out.append(f"{block.title}\n\n{render_markdown(bench.run(chosen), COLUMNS)}".rstrip())
            print(f"\n{out[-1]}", flush=True)
    if options.write:
        page = HERE / "RESULTS.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        text = before + "\n\n".join([BEGIN, *out, END]) + rest.partition(END)[2]
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
