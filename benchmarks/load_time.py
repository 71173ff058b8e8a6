"""What does it cost to begin and to hear? Processor time of loading a model, of one transcription from a cold start and
of encoding a second of audio, of two checkouts of this repository in turns.

Each measurement is a fresh process on one thread. `load` is `speechmtp.load` alone, with every module that it needs
imported before; `load with imports` is the same in a process that has imported nothing; `transcribe` is the whole
command `speechmtp transcribe FILE`, its end included. Times are user and system time together, in seconds. `hear` is
the encoder on the first 20 s of the file, the shortest of ten, in milliseconds a second of audio. The last two are left
out where no file is given. Both checkouts' byte code is written before. Of each the table has the shortest and the
median over rounds and the ratio of the medians. The exit status is 1 where the two checkouts print different texts.

    git worktree add ../old COMMIT
    python benchmarks/load_time.py --old ../old --audio ten_seconds.wav --rounds 5
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown

HERE = Path(__file__).parent
SIDES = ("old", "new")
LOAD, COLD, TRANSCRIBE, HEAR = "load", "load with imports", "transcribe", "hear, ms a second"

_COLD = "import time; import speechmtp; speechmtp.load({model!r}); print(time.process_time())"
_LOAD = """
import importlib, sys, time
import speechmtp.api
for name in {modules!r}:
    importlib.import_module(name)
start = time.process_time()
speechmtp.load({model!r})
print(time.process_time() - start)
"""
_HEAR = """
import time
import torch
import speechmtp
from speechmtp.audio.inputs import read_input
recogniser = speechmtp.load({model!r})
samples = torch.from_numpy(read_input({audio!r}, recogniser.rate)[: 20 * recogniser.rate])
took = []
with torch.inference_mode():
    for _ in range(12):
        start = time.process_time()
        recogniser.bundle.model.memory(samples)
        took.append(time.process_time() - start)
print(1000 * min(took[2:]) * recogniser.rate / len(samples))
"""
_MODULES = """
import sys
import speechmtp
speechmtp.load({model!r})
print(*(name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name))
"""


def environment(checkout: Path) -> dict[str, str]:
    """The environment of a process that runs a checkout's code on one thread."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return os.environ | {"PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": ""} | threads


def run(checkout: Path, arguments: Sequence[str]) -> tuple[str, float]:
    """Standard output of Python with these arguments, and the processor time of the process in seconds; a ConfigError
    where it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment(checkout), cwd=HERE, text=True, capture_output=True
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"{checkout}: {' '.join(arguments)[:60]!r} ended with {done.returncode}: {last}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(checkout: Path, what: str, model: str, audio: str, modules: Sequence[str]) -> tuple[float, str]:
    """Seconds of one measurement, and the text of a transcription (else empty)."""
    if what == TRANSCRIBE:
        text, seconds = run(checkout, ["-m", "speechmtp.cli.main", "transcribe", "--model", model, audio])
        return seconds, text
    code = {COLD: _COLD, LOAD: _LOAD, HEAR: _HEAR}[what]
    output, _ = run(checkout, ["-c", code.format(model=model, modules=list(modules), audio=audio)])
    return float(output.split()[-1]), ""


def figures(seconds: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """A row for every measurement: shortest times and medians of both sides and the ratio of the medians, of
    `seconds[measurement][side]`."""
    rows = []
    for what, sides in seconds.items():
        old, new = (statistics.median(sides[side]) for side in SIDES)
        least = {f"least_{side}": min(sides[side]) for side in SIDES}
        rows.append({"name": what, "old": old, "new": new, "ratio": new / old if old else None, **least})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in markdown."""
    columns = [Column("name", "what"), Column("least_old", "old, least", 2), Column("least_new", "new, least", 2)]
    columns += [Column("old", "old, median", 2), Column("new", "new, median", 2), Column("ratio", "new/old", 2)]
    return render_markdown(rows, columns)


def compare(args: argparse.Namespace) -> int:
    """Measure in turns, print the table."""
    checkouts = {side: Path(getattr(args, side)).resolve() for side in SIDES}
    for checkout in checkouts.values():
        if not (checkout / "speechmtp" / "__init__.py").exists():
            raise ConfigError(f"{checkout}: not a checkout, it has no speechmtp/; make one with git worktree add")
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds}: expected 1 or more")
    audio = str(Path(args.audio).resolve()) if args.audio else ""
    measured = (LOAD, COLD, *([TRANSCRIBE, HEAR] if audio else []))
    modules = {
        side: run(checkout, ["-c", _MODULES.format(model=args.model)])[0].split()
        for side, checkout in checkouts.items()
    }
    for checkout in checkouts.values() if audio else ():
        measure(checkout, TRANSCRIBE, args.model, audio, ())  # writes the byte code
    seconds: dict[str, dict[str, list[float]]] = {what: {side: [] for side in SIDES} for what in measured}
    texts: dict[str, set[str]] = {side: set() for side in SIDES}
    for number in track(list(range(args.rounds)), "rounds"):
        for what in measured:
            for side in SIDES if number % 2 else SIDES[::-1]:
                took, text = measure(checkouts[side], what, args.model, audio, modules[side])
                seconds[what][side].append(took)
                if text:
                    texts[side].add(text)
    print(table(figures(seconds)))
    same = texts["old"] == texts["new"]
    if audio:
        print(f"texts: {'the same' if same else 'they differ'}")
    return int(not same)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, metavar="CHECKOUT", help="folder of the older checkout")
    parser.add_argument("--new", default=str(HERE.parent), metavar="CHECKOUT", help="the newer (default: this one)")
    parser.add_argument("--model", default="default")
    parser.add_argument("--audio", default="", metavar="FILE", help="what is transcribed from a cold start")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    try:
        return compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"load_time: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
