"""Does the native step say the same? Texts and tokens of two sides on sets of recordings, by several strategies, one at
a time and many together.

A side is a checkout of this repository and the value of SPEECHMTP_KERNELS; each runs in a process of its own, on one
thread, both at the same time. Where tokens differ, the first differing one is listed with its gap: the logit of the
first side's token less that of the other's, by the first side's own trunk, one row, no draft. `previous` drafts the
tokens of a pass over the first two thirds of each recording. Results are kept in the folder `--out`, one file a side
and cell, and what is there of the same committed package is not decoded again. The exit status is 1 where tokens differ
at a gap of `--near` or more.

    python benchmarks/exact.py --data DATA_DIR --data OTHER_DIR=100 --out exact
    python benchmarks/exact.py --data an4/test --model an4 --out exact
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sides import HERE, Side, Worker, facts_below, package_of, parse_sides, processor

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown

DEFAULT_SIDES = (f"ref={HERE.parent},ref", f"auto={HERE.parent},auto")
STRATEGIES = "ar,verify,tree,ctc-heads,previous"
Cell = tuple[str, int, str, int]  # data directory, number of utterances (0: all), strategy, rows
Results = dict[str, dict[str, Any]]  # `tokens` and `text` by utterance


def parse_set(text: str) -> tuple[str, int]:
    """A data directory and a number of utterances (0: all) of `DIR` or `DIR=N`; ConfigError for another N."""
    folder, equals, number = text.partition("=")
    if equals and not (number.isdigit() and int(number)):
        raise ConfigError(f"--data {text}: expected DIR or DIR=N with a number N of utterances")
    return folder, int(number or 0)


def split_list(text: str) -> list[str]:
    """Strategies between commas; options of a strategy, which have commas too, are told by their `=`."""
    found: list[str] = []
    for part in text.split(","):
        if found and "=" in part and ":" not in part:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


class Kept:
    """Results of a side in files. They are read again only for the same package, which has no uncommitted changes."""

    def __init__(self, folder: Path, side: Side, model: str) -> None:
        self.folder, self.model = folder / side.name, model
        self._key = [package_of(side.checkout), side.kernels]

    def path(self, cell: Cell) -> Path:
        """The file of a cell."""
        data, number, strategy, rows = cell
        name = f"{self.model}.{'_'.join(Path(data).parts[-2:])}.{number}.{strategy}.{rows}"
        return self.folder / (re.sub(r"[^\w.=,-]+", "_", name) + ".json")

    def read(self, cell: Cell) -> Results | None:
        """The results of a cell; None where there are none of the same package and setting."""
        try:
            found = json.loads(self.path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        results: Results = found["results"]
        return results if self._key[0] and found["side"] == self._key and found["data"] == cell[0] else None

    def write(self, cell: Cell, results: Results) -> None:
        """Keep the results of a cell."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = {"side": self._key, "data": cell[0], "results": results}
        self.path(cell).write_text(json.dumps(found) + "\n", encoding="utf-8")


class Asked:
    """A side: its files, and its process, which begins when it is needed first."""

    def __init__(self, side: Side, folder: Path, model: str) -> None:
        self.side, self.kept, self.model = side, Kept(folder, side, model), model
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """Its process."""
        if self._worker is None:
            self._worker = worker = self.side.worker("exact_side.py")
            package = worker.ask(model=self.model)["package"]
            if Path(package) != worker.checkout:
                raise ConfigError(f"{worker.checkout}: its process took the package of {package}")
        return self._worker

    def close(self) -> None:
        """End the process, if there is one."""
        if self._worker is not None:
            self._worker.close()


def results_of(sides: Sequence[Asked], cell: Cell) -> list[Results]:
    """Results of a cell of all sides, which decode at the same time what is not kept."""
    found = [side.kept.read(cell) for side in sides]
    data, number, strategy, rows = cell
    missing = [n for n, results in enumerate(found) if results is None]
    for n in missing:
        sides[n].worker.tell(do="decode", data=data, number=number, strategy=strategy, rows=rows)
    for n in missing:
        found[n] = sides[n].worker.hear(cell)["results"]
        sides[n].kept.write(cell, found[n] or {})
    return [results or {} for results in found]


def first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The index of the first token that differs, or that one of the two does not have; None for equal ones."""
    if list(one) == list(other):
        return None
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def compared(sides: Sequence[Any], cell: Cell) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A line of the table, and a line for every utterance whose tokens differ, with its gap (None where an output only
    ends earlier)."""
    first, second = results_of(sides, cell)
    data, number, strategy, rows = cell
    differing = []
    for name, one in first.items():
        ours, theirs = one["tokens"], second[name]["tokens"]
        at = first_difference(ours, theirs)
        if at is None:
            continue
        gap = None
        if at < min(len(ours), len(theirs)):
            asked = {"name": name, "prefix": ours[:at], "first": ours[at], "second": theirs[at]}
            gap = sides[0].worker.ask(do="gap", data=data, number=number, **asked)["gap"]
        differing.append({
            "set": "/".join(Path(data).parts[-2:]), "strategy": strategy, "rows": rows, "utterance": name, "token": at,
            "gap": gap, "first": one["text"], "second": second[name]["text"],
        })  # fmt: skip
    line = {
        "set": "/".join(Path(data).parts[-2:]), "strategy": strategy, "rows": rows, "utterances": len(first),
        "tokens": sum(len(one["tokens"]) for one in first.values()),
        "texts": sum(one["text"] != second[name]["text"] for name, one in first.items()), "differing": len(differing),
        "gap": max((one["gap"] for one in differing if one["gap"] is not None), default=None),
    }  # fmt: skip
    return line, differing


def table(lines: Sequence[dict[str, Any]], differing: Sequence[dict[str, Any]]) -> str:
    """The lines in markdown, and those of utterances that differ."""
    text = render_markdown(lines, [
        Column("set"), Column("strategy"), Column("rows"), Column("utterances"), Column("tokens"),
        Column("texts", "texts that differ"), Column("differing", "token lists that differ"),
        Column("gap", "largest gap", 6),
    ])  # fmt: skip
    if differing:
        keys = ("set", "strategy", "rows", "utterance", "token", "first", "second")
        text += "\n" + render_markdown(differing, [*(Column(key) for key in keys), Column("gap", digits=7)])
    total = sum(line["utterances"] for line in lines)
    return f"{text}\nTexts that differ: {sum(line['texts'] for line in lines)} of {total}.\n"


def compare(args: argparse.Namespace) -> int:
    """Decode, print the tables, write them."""
    given, out = parse_sides(args.side or DEFAULT_SIDES), Path(args.out)
    if len(given) != 2 or min(args.rows) < 1:
        raise ConfigError("expected two sides, and rows of 1 or more")
    sides = [Asked(side, out, args.model) for side in given]
    sets = [parse_set(text) for text in args.data]
    cells = [(*one, strategy, rows) for one in sets for strategy in split_list(args.strategies) for rows in args.rows]
    lines: list[dict[str, Any]] = []
    differing: list[dict[str, Any]] = []
    try:
        for cell in track(cells, "sets and strategies"):
            line, found = compared(sides, cell)
            lines.append(line)
            differing += found
    finally:
        for side in sides:
            side.close()
    facts = {
        "command": shlex.join(["python", *sys.argv]), "model": args.model,
        **{side.name: side.told for side in given}, "machine": processor(),
    }  # fmt: skip
    text = f"{table(lines, differing)}\n{facts_below(facts)}"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{Path(args.model).name}.md").write_text(text, encoding="utf-8")
    apart = [one for one in differing if one["gap"] is None or abs(one["gap"]) >= args.near]
    return int(bool(apart))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", action="append", default=[], metavar="NAME=CHECKOUT[,KERNELS]",
                        help="two of them (default: this checkout, ref and auto)")  # fmt: skip
    parser.add_argument("--data", action="append", required=True, metavar="DIR[=N]", help="N utterances, evenly spaced")
    parser.add_argument("--model", default="default")
    parser.add_argument("--strategies", default=STRATEGIES, metavar="LIST")
    parser.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16])
    parser.add_argument("--near", type=float, default=1e-4, metavar="GAP", help="a gap below it is a near tie")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of results and tables")
    try:
        return compare(parser.parse_args(argv))
    except SpeechMTPError as error:
        print(f"exact: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
