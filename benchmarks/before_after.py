"""What did a change do to texts, counts and decoder times? Two checkouts of this repository, decoded in turns.

Each checkout runs in a process of its own, on one thread, with its own code and the same weights and data. They take
turns utterance by utterance and strategy by strategy, and which is first alternates, so that other work on the machine
meets both alike. Of every strategy: whether texts, tokens and counts are the same, and the decoder's time, new over
old, as the ratio of sums with a bootstrap interval over utterances, and as the median of the utterances' own ratios
(each of them by its medians over rounds). The exit status is 1 where a text or a token differs.

    git worktree add ../old COMMIT
    python benchmarks/before_after.py --old ../old --data DATA_DIR --model an4 --out before_after
"""

import argparse
import json
import platform
import random
import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sides import Worker, facts_below, processor

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown, short_label

HERE = Path(__file__).parent
SIDES = ("old", "new")
COUNTS = ("calls", "prompt_calls", "draft_calls", "fed", "emitted", "num_drafts", "num_draft_tokens",
          "num_accepted_tokens", "num_accepted_tokens_per_pos", "finished", "flags")  # fmt: skip
RESAMPLES = 2000


@dataclass
class Row:
    """One strategy's results: of each side by utterance, and its seconds of every round."""

    results: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {side: {} for side in SIDES})
    seconds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {side: defaultdict(list) for side in SIDES}
    )

    def differing(self) -> dict[str, list[str]]:
        """Utterances by what differs between the sides: `text`, `tokens` or a count of the trace."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, old in self.results["old"].items():
            new = self.results["new"][name]
            pairs = {key: (old[key], new[key]) for key in ("text", "tokens")}
            pairs |= {key: (old["trace"].get(key), new["trace"].get(key)) for key in COUNTS}
            for key, (a, b) in pairs.items():
                if a != b:
                    found[key].append(name)
        return dict(found)

    def total(self, side: str, key: str) -> int:
        """A count over all utterances."""
        return sum(result["trace"][key] for result in self.results[side].values())

    def figures(self, seed: int) -> dict[str, Any]:
        """What the table says of this row."""
        names = list(self.results["old"])
        sums = {side: [sum(self.seconds[side][name]) for name in names] for side in SIDES}
        middle = {side: [statistics.median(self.seconds[side][name]) for name in names] for side in SIDES}
        low, high = interval(sums["old"], sums["new"], seed)
        counts = {key: {side: self.total(side, key) for side in SIDES}
                  for key in ("calls", "draft_calls", "fed", "emitted", "num_accepted_tokens")}  # fmt: skip
        return counts | {
            "utterances": len(names),
            "differing": self.differing(),
            "tokens_per_call": {s: counts["emitted"][s] / max(1, counts["calls"][s]) for s in SIDES},
            "seconds": {side: sum(sums[side]) for side in SIDES},
            "ratio": sum(sums["new"]) / sum(sums["old"]) if sum(sums["old"]) else None,
            "low": low,
            "high": high,
            "median_ratio": statistics.median(b / a for a, b in zip(middle["old"], middle["new"])) if names else None,
        }


def interval(old: Sequence[float], new: Sequence[float], seed: int) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of sum(new) / sum(old), utterances drawn with replacement."""
    if not old or not sum(old):
        return None, None
    rng = random.Random(seed)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(range(len(old)), k=len(old))
        ratios.append(sum(new[n] for n in drawn) / sum(old[n] for n in drawn))
    ratios.sort()
    return ratios[int(0.025 * RESAMPLES)], ratios[int(0.975 * RESAMPLES) - 1]


def measure(workers: dict[str, Worker], names: Sequence[str], rows: Sequence[str], rounds: int) -> dict[str, Row]:
    """All rows of all utterances, the sides taking turns."""
    found = {row: Row() for row in rows}
    for side in SIDES:  # warm up: the first call of a strategy is slower
        workers[side].ask(do="listen", name=names[0])
        for row in rows:
            workers[side].ask(do="decode", row=row)
    for number in range(rounds):
        for turn, name in enumerate(track(names, f"round {number + 1}")):
            for side in SIDES:
                workers[side].ask(do="listen", name=name)
            for place in range(len(rows)):
                row = rows[(place + turn) % len(rows)]
                for side in SIDES if (place + turn + number) % 2 else SIDES[::-1]:
                    result = workers[side].ask(do="decode", row=row)
                    found[row].results[side][name] = result
                    found[row].seconds[side][name].append(result["seconds"])
    return found


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a table: a count that is the same on both sides stands once."""

    def both(values: dict[str, Any], form: str = "{}") -> str:
        old, new = (form.format(values[side]) for side in SIDES)
        return old if old == new else f"{old} -> {new}"

    rows = []
    for label, row in figures.items():
        differing = ", ".join(f"{key} of {len(names)}" for key, names in row["differing"].items())
        span = "" if row["low"] is None else f"{row['low']:.3f}-{row['high']:.3f}"
        rows.append({
            "name": short_label(label), "differs": differing or "nothing", "calls": both(row["calls"]),
            "each": both(row["tokens_per_call"], "{:.2f}"), "accepted": both(row["num_accepted_tokens"]),
            "fed": both(row["fed"]), "seconds": " -> ".join(f"{row['seconds'][side]:.2f}" for side in SIDES),
            "ratio": row["ratio"], "interval": span, "median": row["median_ratio"],
        })  # fmt: skip
    return render_markdown(rows, [
        Column("name", "strategy"), Column("differs"), Column("calls"), Column("each", "tokens/call"),
        Column("accepted"), Column("fed"), Column("seconds", "decoder s"), Column("ratio", "new/old", 3),
        Column("interval", "95 % interval"), Column("median", "median of utterances", 3),
    ])  # fmt: skip


def compare(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes JSON and markdown."""
    workers: dict[str, Worker] = {}
    try:
        for side, checkout in zip(SIDES, (args.old, args.new)):
            workers[side] = Worker(Path(checkout))
        keys = ("model", "heads", "ctc", "draft_model", "drafts", "strategies", "data")
        asked = {key: getattr(args, key) for key in keys}
        loaded = {side: worker.ask(do="load", root=args.root, limit=args.limit, **asked)
                  for side, worker in workers.items()}  # fmt: skip
        for side, worker in workers.items():
            if Path(loaded[side]["package"]) != worker.checkout:
                raise ConfigError(f"{worker.checkout}: its process took the package of {loaded[side]['package']}")
        rows = [row for row in loaded["old"]["rows"] if row in loaded["new"]["rows"]]
        alone = [row for side in SIDES for row in loaded[side]["rows"] if row not in rows]
        found = measure(workers, loaded["new"]["names"], rows, args.rounds)
        figures = {label: row.figures(args.seed) for label, row in found.items()}
        facts = {
            "command": shlex.join(["python", *sys.argv]), "old": workers["old"].commit, "new": workers["new"].commit,
            "data": args.data, "utterances": len(loaded["new"]["names"]), "rounds": args.rounds, "threads": 1,
            "machine": processor(), "torch": loaded["new"]["torch"], "python": platform.python_version(),
            "seed": args.seed, "on_one_side_only": alone,
        }  # fmt: skip
    finally:
        for worker in workers.values():
            worker.close()
    text = table(figures) + "\n" + facts_below(facts)
    print(text)
    if args.out:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        (Path(args.out) / "before_after.json").write_text(json.dumps(facts | {"rows": figures}, indent=1) + "\n")
        (Path(args.out) / "before_after.md").write_text(text, encoding="utf-8")
    return int(any({"text", "tokens"} & set(row["differing"]) for row in figures.values()))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, metavar="CHECKOUT", help="folder of the older checkout")
    parser.add_argument("--new", default=str(HERE.parent), metavar="CHECKOUT", help="the newer (default: this one)")
    parser.add_argument("--data", required=True, metavar="DIR", help="Kaldi data directory")
    parser.add_argument("--root", default="", help="root of relative audio paths")
    parser.add_argument("--model", default="default")
    parser.add_argument("--heads", action="append", default=[], metavar="NAME|DIR")
    parser.add_argument("--ctc", default="", metavar="DIR")
    parser.add_argument("--draft-model", default="", metavar="DIR")
    parser.add_argument("--drafts", choices=("float32", "int8"), default="", help="default: as the model says")
    parser.add_argument("--strategies", default="", metavar="LIST", help="default: every exact one that it can run")
    parser.add_argument("--rounds", type=int, default=1, metavar="N")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N utterances (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for before_after.json and .md")
    args = parser.parse_args()
    try:
        return compare(args)
    except SpeechMTPError as error:
        print(f"before_after: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
