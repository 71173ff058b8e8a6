"""Do memory and the time of a pass stay flat while a stream goes on?

The recordings of a data directory are fed to one stream over and over, 100 ms at a time. Shown are the resident memory
and the processor time a pass of every few minutes of audio.

    python benchmarks/live_memory.py DATA_DIR [--minutes 30] [--every 5] [--model default]
"""

import argparse
import os
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from speechmtp.api import load
from speechmtp.data.kaldi import read_data_dir
from speechmtp.scoring.tables import Column, render_markdown


def resident() -> float:
    """Megabytes of memory that are resident."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def pieces(data: str, root: str | None, rate: int) -> Iterator[np.ndarray]:
    """100 ms of samples at a time, without end."""
    for utterance in cycle(read_data_dir(data, root).utterances):
        audio = utterance.load(rate, False)
        for start in range(0, len(audio), rate // 10):
            yield audio[start : start + rate // 10]


def main() -> None:
    """Prints a row every few minutes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--root")
    parser.add_argument("--model", default="default")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=5, help="minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = load(args.model, "cpu")
    stream, rows, heard = recogniser.create_stream(), [], 0.0
    before, began, due = stream.session.passes, time.process_time(), args.every * 60
    for samples in pieces(args.data, args.root, recogniser.rate):
        stream.feed(samples)
        heard += len(samples) / recogniser.rate
        if heard >= due:
            count, spent = stream.session.passes - before, time.process_time() - began
            rows.append({"minutes": heard / 60, "memory": resident(), "passes": count, "ms": 1000 * spent / count})
            before, began, due = stream.session.passes, time.process_time(), due + args.every * 60
        if heard >= args.minutes * 60:
            break
    columns = [
        Column("minutes", "minutes of audio", 0), Column("memory", "resident MB", 0), Column("passes", "passes"),
        Column("ms", "processor ms a pass, everything counted", 1),
    ]  # fmt: skip
    print(render_markdown(rows, columns))


if __name__ == "__main__":
    main()
