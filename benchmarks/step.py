"""Where do the seconds of transcription go, and what has a change done to them? Processor time of start, hearing, CTC
speller, decoder layers, unembedding, drafts and the loop around them, of two or more sides in one run.

A side is a checkout of this repository and the value of SPEECHMTP_KERNELS; each runs in a process of its own, on one
thread, with its own code and the same weights and recordings. They take turns part by part, and which is first changes,
so that other work on the machine meets all alike. Widths are the entries a row of a decoder call, in scenes of real
recordings of which some thirty tokens a row are decoded (`step_side.py`). Of every part: the least and the median
milliseconds of all rounds, and the least time of the first side over that of each other one. `unembedding` gives
logits, `layers and tokens` counts what gives the most probable tokens in its place. `loop` is what a call of the engine
takes beside trunk, drafter and heads.

    git worktree add ../old COMMIT
    python benchmarks/step.py --side old=../old --side new=. --data DATA_DIR --out step.md
    python benchmarks/step.py --data DATA_DIR --model an4        # ref against auto in this checkout
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sides import HERE, Side, Worker, facts_below, parse_sides, processor, turns

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown

DEFAULT_SIDES = (f"ref={HERE.parent},ref", f"auto={HERE.parent},auto")
REPEATS = {1: 12, 16: 3}  # calls of a part at a time, by rows
_START = "import time; import speechmtp; speechmtp.load({model!r}); print(time.process_time())"

Key = tuple[str, int, int]  # part, rows, width: 0 where there is none
Seconds = dict[str, dict[Key, list[float]]]  # by side


def start(side: Side, model: str) -> float:
    """Processor seconds of a fresh process until a model is loaded; ConfigError where it fails."""
    own = {"PYTHONPATH": str(side.checkout.resolve()), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _START.format(model=model)], env=os.environ | own | side.settings, text=True,
        capture_output=True, cwd=HERE,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"{side.checkout}: loading {model!r} ended with {done.returncode}: {last}")
    return float(done.stdout.split()[-1])


def cells(rows: Sequence[int], widths: Sequence[int]) -> list[Key]:
    """What is measured, in the order of the table."""
    steps = [("step", row, width) for row in rows for width in widths]
    return [("hearing", 0, 0), *steps, *(("heads", row, 0) for row in rows), *(("loop", row, 0) for row in rows)]


def measure(workers: dict[str, Any], asked: Sequence[Key], rounds: int) -> Seconds:
    """Seconds of all parts, the sides taking turns."""
    found: Seconds = {name: defaultdict(list) for name in workers}
    for number in track(range(rounds + 1), "rounds"):  # the first one warms up
        for place, (part, rows, width) in enumerate(asked):
            repeats = REPEATS.get(rows, max(1, 24 // max(1, rows)))
            for name in turns(list(workers), number + place):
                answer = workers[name].ask(part=part, rows=rows, width=width, repeats=repeats)
                for what, seconds in answer.items() if number else ():
                    found[name][what, rows, width] += seconds
    return found


def figures(found: Seconds) -> list[dict[str, Any]]:
    """A line for every part: of each side the least and the median in milliseconds, and the first one's least time over
    that of every other side (None for nothing measured)."""
    first, *others = found
    lines = []
    for key in found[first]:
        what, rows, width = key
        line: dict[str, Any] = {"what": what, "rows": rows or None, "width": width or None}
        for name, seconds in found.items():
            taken = seconds[key]
            line |= {f"{name} least": 1000 * min(taken), f"{name} median": 1000 * statistics.median(taken)}
        for name in others:
            least = line[f"{name} least"]
            line[f"{name} ratio"] = line[f"{first} least"] / least if least else None
        lines.append(line)
    return lines


def table(lines: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The figures in markdown."""
    columns = [Column("what"), Column("rows"), Column("width")]
    for name in names:
        columns += [Column(f"{name} least", f"{name} ms", 3), Column(f"{name} median", f"{name} median", 3)]
    return render_markdown(lines, [*columns, *(Column(f"{name} ratio", f"{names[0]}/{name}") for name in names[1:])])


def shares(found: Seconds) -> str:
    """A line for each number of rows: what part of a call the loop is."""
    said = []
    for name, seconds in found.items():
        for rows in sorted(key[1] for key in seconds if key[0] == "call"):
            share = min(seconds["loop", rows, 0]) / min(seconds["call", rows, 0])
            said.append(f"- loop's share of a call, {name}, {rows} row(s): {100 * share:.0f} %\n")
    return "".join(said)


def compare(args: argparse.Namespace) -> int:
    """Measure, print the table, write it."""
    sides, workers = parse_sides(args.side or DEFAULT_SIDES), dict[str, Worker]()
    if args.rounds < 1 or min(args.rows) < 1 or min(args.widths) < 1:
        raise ConfigError("--rounds, --rows and --widths: expected 1 or more")
    found: Seconds = {side.name: defaultdict(list) for side in sides}
    try:
        for side in sides:
            workers[side.name] = side.worker("step_side.py")
        asked = {"model": args.model, "strategy": args.strategy, "data": args.data, "root": args.root}
        for worker in workers.values():
            worker.tell(rows=args.rows, **asked)
        loaded = {name: worker.hear("loading") for name, worker in workers.items()}
        for name, worker in workers.items():
            if Path(loaded[name]["package"]) != worker.checkout:
                raise ConfigError(f"{worker.checkout}: its process took the package of {loaded[name]['package']}")
        for number in range(args.starts):
            for side in turns(sides, number):
                found[side.name]["start", 0, 0].append(start(side, args.model))
        for name, seconds in measure(workers, cells(args.rows, args.widths), args.rounds).items():
            found[name] |= seconds
    finally:
        for worker in workers.values():
            worker.close()
    names, last = [side.name for side in sides], loaded[sides[-1].name]
    facts = {
        "command": shlex.join(["python", *sys.argv]), **{side.name: side.told for side in sides}, "model": args.model,
        "strategy": last["strategy"], "tokens in the scenes, by rows": last["tokens"], "data": args.data,
        "rounds": args.rounds, "threads": 1, "machine": processor(), "torch": last["torch"],
        "python": platform.python_version(), "hearing": "milliseconds a second of audio",
    }  # fmt: skip
    lines = figures(found)
    text = f"{table(lines, names)}\n{shares(found)}{facts_below(facts)}"
    print(text)
    if args.out:
        out = Path(args.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(text, encoding="utf-8")
        out.with_suffix(".json").write_text(json.dumps(facts | {"lines": lines}, indent=1) + "\n", encoding="utf-8")
    return 0


def numbers(text: str) -> list[int]:
    """Numbers between commas."""
    return [int(part) for part in text.split(",")]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", action="append", default=[], metavar="NAME=CHECKOUT[,KERNELS]",
                        help="the first is compared with all others (default: here, ref and auto)")  # fmt: skip
    parser.add_argument("--data", required=True, metavar="DIR", help="Kaldi data directory")
    parser.add_argument("--root", default="", help="root of relative audio paths")
    parser.add_argument("--model", default="default")
    parser.add_argument("--strategy", default="verify:depth=3", help="it drafts chains with heads")
    parser.add_argument("--rows", type=numbers, default=[1, 16], metavar="N,...")
    parser.add_argument("--widths", type=numbers, default=[1, 2, 4, 8], metavar="N,...")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--starts", type=int, default=3, metavar="N", help="fresh processes of each side")
    parser.add_argument("--out", default="", metavar="FILE", help="for .md and .json")
    try:
        return compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"step: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
