"""How fast are voices on one core, and when is the first sound there?

Each voice is a process of its own, all on one core with one thread, taking turns sentence by sentence, and which is
first changes. The front end counts, loading does not. `RTF` is wall time over the audio's length, added up over
sentences, each by its median over rounds; `first audio` is the median over paragraphs of five sentences of the time
from the text to the first piece of samples; `start` is a fresh process from its beginning to the samples of a short
sentence, the median of several. Those that are not installed, or come without weights, are left out with a line.

    PEERS=peers KOKORO_STYLE=af_heart.bin python benchmarks/voice_peers.py --texts sentences.txt --out peers
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sides import HERE, Side, Worker, facts_below, parse_sides, processor, turns

from speechmtp.data.tables import read_table
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown

PEERS = {"hibari-tts": "hibari", "Kokoro-82M int8": "kokoro", "Piper": "piper", "pocket-tts": "pocket"}
SHORT = "Good morning, everybody."
PARAGRAPH = 5  # sentences


@dataclass
class Row:
    """A voice in the table: how it is started, and its times by text."""

    name: str
    side: Side
    tool: str
    strategy: str = ""
    voice: str = ""
    times: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))
    starts: list[float] = field(default_factory=list)
    about: str = ""  # what it says of itself
    missing: str = ""  # why it is left out

    def start(self, core: int) -> Worker:
        """Its process, which loads."""
        worker = Worker(self.side.checkout, "voice_peers_side.py", self.side.settings, [core])
        worker.tell(tool=self.tool, strategy=self.strategy, voice=self.voice)
        return worker

    def loaded(self, worker: Worker) -> bool:
        """Whether it is installed with weights, once its process has loaded."""
        answer = worker.hear("loading")
        self.about, self.missing = answer.get("about", ""), answer.get("missing", "")
        return not self.missing

    def total(self, texts: Sequence[str], what: str) -> float:
        """Medians over rounds, added up over texts."""
        return sum(statistics.median(each[what] for each in self.times[text]) for text in texts)


def rows_of(args: argparse.Namespace) -> list[Row]:
    """This project's sides, each strategy asked for, then the others."""
    sides = parse_sides(args.side or [f"speechmtp={HERE.parent}"])
    found = []
    for side in sides:
        found.append(Row(side.name, side, "speechmtp", voice=args.voice))
        found += [Row(f"{side.name}, {one}", side, "speechmtp", one, args.voice) for one in args.strategy]
    names = [name for name in PEERS if not args.peers or any(word in name for word in args.peers.split(","))]
    plain = Side(sides[0].name, sides[0].checkout)
    return found + [Row(name, plain, PEERS[name]) for name in names if args.peers != "none"]


def starts(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Time fresh processes from their beginning to the samples of a short sentence, in turns; say which are missing."""
    for number in track(range(args.starts + 1), "starts"):  # the first fills the caches of the disk
        for row in turns(rows, number):
            if row.missing:
                continue
            began = time.perf_counter()
            worker = row.start(args.core)
            try:
                if row.loaded(worker):
                    worker.ask(text=SHORT)
                    if number:
                        row.starts.append(time.perf_counter() - began)
            finally:
                worker.close()


def sentences(args: argparse.Namespace, rows: Sequence[Row], texts: Sequence[str]) -> None:
    """Time every text in every round."""
    workers: dict[str, Worker] = {}
    try:
        for row in rows:
            worker = workers[row.name] = row.start(args.core)
            if row.loaded(worker):
                worker.ask(text=SHORT)  # the first call is slower
        there = [row for row in rows if not row.missing]
        for number in range(args.rounds):
            for place, text in enumerate(track(texts, f"round {number + 1}")):
                for row in turns(there, number + place):
                    row.times[text].append(workers[row.name].ask(text=text))
    finally:
        for worker in workers.values():
            worker.close()


def lines_of(rows: Sequence[Row], single: Sequence[str], paragraphs: Sequence[str]) -> list[dict[str, Any]]:
    """Lines of the table."""
    lines: list[dict[str, Any]] = []
    for row in rows:
        audio = row.total(single, "audio")
        firsts = [statistics.median(each["first"] for each in row.times[text]) for text in paragraphs]
        lines.append({
            "name": row.name, "audio": audio, "rtf": row.total(single, "wall") / audio,
            "by processor": row.total(single, "processor") / audio,
            "first": 1000 * statistics.median(firsts) if firsts else None,
            "slowest": 1000 * max(firsts) if firsts else None,
            "start": statistics.median(row.starts) if row.starts else None,
        })  # fmt: skip
    for line in lines:
        line["of first"] = line["rtf"] / lines[0]["rtf"]
    return lines


def table(rows: Sequence[Row], single: Sequence[str], paragraphs: Sequence[str]) -> str:
    """The table in markdown."""
    there = [row for row in rows if not row.missing]
    return render_markdown(lines_of(there, single, paragraphs), [
        Column("name", "voice"), Column("audio", "audio s", 1), Column("rtf", "RTF", 4),
        Column("by processor", "by processor time", 4), Column("of first", f"of {there[0].name}"),
        Column("first", "first audio ms, median", 0), Column("slowest", "slowest", 0), Column("start", "start s"),
    ]) if there else ""  # fmt: skip


def compare(args: argparse.Namespace) -> int:
    """Measure, print the table, write it."""
    if args.rounds < 1 or args.starts < 0:
        raise ConfigError(f"--rounds {args.rounds} --starts {args.starts}: expected 1 or more, and 0 or more")
    if args.core not in os.sched_getaffinity(0):
        raise ConfigError(f"--core {args.core}: expected one of {sorted(os.sched_getaffinity(0))}")
    single = list(read_table(args.texts).values())[: args.limit or None]
    paragraphs = [" ".join(single[at : at + PARAGRAPH]) for at in range(0, len(single) - PARAGRAPH + 1, PARAGRAPH)]
    rows = rows_of(args)
    starts(args, rows)
    sentences(args, rows, [*single, *paragraphs])
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        **{f"{row.side.name}'s checkout": row.side.told for row in rows if row.tool == "speechmtp"},
        **{row.name: f"left out: {row.missing}" if row.missing else row.about for row in rows},
        "texts": f"{len(single)} sentences, {len(paragraphs)} paragraphs of {PARAGRAPH}", "rounds": args.rounds,
        "starts": args.starts, "core": args.core, "machine": processor(), "python": platform.python_version(),
    }  # fmt: skip
    text = f"{table(rows, single, paragraphs)}\n{facts_below(facts)}"
    print(text)
    if args.out:
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "voice_peers.md").write_text(text, encoding="utf-8")
        kept = [{"name": row.name, "starts": row.starts, "times": row.times} for row in rows]
        (out / "voice_peers.json").write_text(json.dumps(facts | {"rows": kept}, indent=1) + "\n", encoding="utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", action="append", default=[], metavar="NAME=CHECKOUT[,KERNELS]",
                        help="this project; others are compared with the first (default: this checkout)")  # fmt: skip
    parser.add_argument("--strategy", action="append", default=[], help="of this project, besides its default")
    parser.add_argument("--voice", default="", help="name or folder (default: the embedded one)")
    parser.add_argument("--peers", default="", metavar="LIST", help="parts of others' names (default: all), or none")
    parser.add_argument("--texts", required=True, metavar="FILE", help="lines `id text`")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--starts", type=int, default=5, metavar="N")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N sentences (default: all)")
    parser.add_argument("--out", default="", metavar="DIR", help="folder for voice_peers.md and voice_peers.json")
    try:
        return compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"voice_peers: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
