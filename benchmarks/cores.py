"""What worker threads bring: one and the default number, on a quiet machine and with one core kept busy.

A data directory is transcribed in turns, in the process that has loaded the model: with one job, and with the default
number. Then another process keeps one core busy, and they take turns again. Shown are the shortest wall clock of the
rounds, CPU seconds, seconds of audio per second, and the ratio to one job; also whether all texts are the same.

    python benchmarks/cores.py DATA_DIR [--model default] [--strategy S] [--batch-size B] [--jobs N] [--rounds 3]
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

import speechmtp
from speechmtp.batching import ROWS_ON_CPU
from speechmtp.cores import cores
from speechmtp.data.kaldi import read_data_dir
from speechmtp.scoring.tables import Column, render_markdown

MOST = 1800  # seconds that the busy process lives at most
BUSY = f"import time\nend = time.monotonic() + {MOST}\nwhile time.monotonic() < end: sum(range(10000))"


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that keeps one core busy inside the context."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def measure(run: Any) -> tuple[float, float, list[str]]:
    """Wall clock, CPU seconds and texts of a run."""
    began, used = time.perf_counter(), time.process_time()
    texts = [str(one) for one in run()]
    return time.perf_counter() - began, time.process_time() - used, texts


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="Kaldi data directory")
    parser.add_argument("--root", help="root of relative audio paths (default: SPEECHMTP_CORPORA)")
    parser.add_argument("--model", default="default", help="model folder or name")
    parser.add_argument("--strategy", default="", help="default: the model's")
    parser.add_argument("--batch-size", type=int, default=ROWS_ON_CPU, help="rows of a batch")
    parser.add_argument("--jobs", type=int, default=cores(), help="workers beside one (default: the cores)")
    parser.add_argument("--utterances", type=int, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = speechmtp.load(options.model, "cpu")
    strategy = options.strategy or recogniser.default_strategy.label
    utterances = read_data_dir(options.data, options.root, need_text=False).utterances[: options.utterances]
    sources = [partial(one.load, recogniser.rate, False) for one in utterances]

    def run(jobs: int) -> Iterator[Any]:
        return recogniser.transcribe_many(sources, recogniser.rate, strategy, options.batch_size, jobs=jobs)

    seconds = sum(one.audio_seconds for one in run(options.jobs))  # the first run chooses linear maps
    rows, said = [], set()
    for machine, context in (("quiet", nullcontext), ("one core busy", busy_core)):
        best: dict[int, tuple[float, float]] = {}
        with context():
            for _ in range(options.rounds):
                for jobs in dict.fromkeys((1, options.jobs)):
                    wall, cpu, texts = measure(partial(run, jobs))
                    best[jobs] = min(best.get(jobs, (wall, cpu)), (wall, cpu))
                    said.add(tuple(texts))
        rows += [
            {"machine": machine, "jobs": jobs, "wall": wall, "cpu": cpu, "speed": seconds / wall,
             "ratio": wall / best[1][0]}
            for jobs, (wall, cpu) in best.items()
        ]  # fmt: skip
    columns = [
        Column("machine"), Column("jobs"), Column("wall", "wall s"), Column("cpu", "CPU s"),
        Column("speed", "x real time", 1), Column("ratio", "wall / one job"),
    ]  # fmt: skip
    print(render_markdown(rows, columns))
    load, same = os.getloadavg()[0], "the same" if len(said) == 1 else "DIFFER"
    print(f"{len(sources)} recordings, {seconds:.0f} s; {strategy}, batches of {options.batch_size}; {cores()} cores, "
          f"load at the end {load:.1f}; texts {same}")  # fmt: skip


if __name__ == "__main__":
    main()
