"""The table of rows: word errors by two recognisers, two predicted opinions, and the melody.

Every row is a folder with read_back.json, mos.json and pitch.json as the other scripts here write them. The first row
is the teacher, and a table without one is refused: differences from it are paired, by sentence, with 95 % bootstrap
intervals. Rows called `NAME:SEED` are one voice at several seeds; their means and the spread over them are told below.

    python tools/voice_eval/table.py --teacher exp/teacher --row hibari-tts=exp/hibari --row voice:0=exp/voice_0
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rows import read_json

from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.scoring.intervals import DRAWS, paired_bootstrap
from speechmtp.scoring.tables import Column, render_markdown

RECOGNISERS = {"moonshine": "Moonshine", "whisper": "Whisper"}
OPINIONS = {"distillmos": "DistillMOS", "dnsmos": "DNSMOS"}


@dataclass(frozen=True)
class Row:
    """A name in the table and what was measured of it; `mos` and `pitch` are empty where they were not measured."""

    name: str
    read_back: Mapping[str, Any]
    mos: Mapping[str, Any]
    pitch: Mapping[str, Any]


def row_of(name: str, folder: str | Path) -> Row:
    """A row by its folder; ConfigError where nothing read it back."""
    mos, pitch = ({} if not (Path(folder) / file).exists() else read_json(Path(folder) / file)
                  for file in ("mos.json", "pitch.json"))  # fmt: skip
    return Row(name, read_json(Path(folder) / "read_back.json"), mos, next(iter(pitch.get("rows", {}).values()), {}))


def mean_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of `values` and its 95 % bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(DRAWS, len(array)))
    low, high = np.percentile(array[picks].mean(axis=1), [2.5, 97.5])
    return float(array.mean()), float(low), float(high)


def word_errors(name: str, row: Row, teacher: Row) -> dict[str, Any]:
    """Cells of one recogniser; ConfigError where the two rows have different sentences or normalisers."""
    if name not in row.read_back or name not in teacher.read_back:
        return {}
    one, base = row.read_back[name], teacher.read_back[name]
    if one["words"] != base["words"] or row.read_back["normalizer"] != teacher.read_back["normalizer"]:
        raise ConfigError(f"{row.name}: other sentences than {teacher.name}, expected the same; measure both again")
    cells = {name: f"{one['wer']:.2f} ({one['low']:.2f}-{one['high']:.2f})"}
    if row is not teacher:
        names = list(one["words"])
        own, teachers, words = (
            [each_of[each] for each in names] for each_of in (one["errors"], base["errors"], one["words"])
        )
        pair = paired_bootstrap(own, teachers, words)
        cells[f"{name} delta"] = f"{pair.delta:+.2f} ({pair.low:+.2f} to {pair.high:+.2f})"
    return cells


def opinion(name: str, row: Row, teacher: Row) -> dict[str, Any]:
    """Cells of one predictor of opinions."""
    if name not in row.mos:
        return {}
    mean, low, high = mean_interval(list(row.mos[name].values()))
    cells = {name: f"{mean:.2f} ({low:.2f}-{high:.2f})"}
    base = teacher.mos.get(name, {})
    if row is not teacher and base:
        if list(base) != list(row.mos[name]):
            raise ConfigError(f"{row.name}: other files than {teacher.name} in mos.json, expected the same")
        mean, low, high = mean_interval([row.mos[name][one] - base[one] for one in base])
        cells[f"{name} delta"] = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return cells


def line_of(row: Row, teacher: Row) -> dict[str, Any]:
    """A line of the table."""
    line: dict[str, Any] = {"name": row.name}
    for name in RECOGNISERS:
        line |= word_errors(name, row, teacher)
    for name in OPINIONS:
        line |= opinion(name, row, teacher)
    if row.pitch.get("median_hz"):
        line["f0"] = f"{row.pitch['median_hz']:.0f}, {row.pitch['sd_st']:.1f}, {row.pitch['range_st']:.1f}"
    return line


def seeds_below(rows: Sequence[Row]) -> str:
    """For every voice at several seeds its means, with the lowest and the highest."""
    voices: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if ":" in row.name:
            voices[row.name.split(":")[0]].append(row)
    text = ""
    for voice, ones in voices.items():
        found = {title: [one.read_back[name]["wer"] for one in ones if name in one.read_back]
                 for name, title in RECOGNISERS.items()}  # fmt: skip
        found |= {title: [one.mos["mean"][name] for one in ones if one.mos] for name, title in OPINIONS.items()}
        told = [f"{title} {np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
                for title, values in found.items() if values]  # fmt: skip
        text += f"{voice}, mean of {len(ones)} seeds (lowest to highest): {', '.join(told)}.\n"
    return text


def table(teacher: Row, rows: Sequence[Row]) -> str:
    """The table in markdown."""
    lines = [line_of(row, teacher) for row in (teacher, *rows)]
    columns = [Column("name", "row")]
    for name, title in RECOGNISERS.items():
        if name not in teacher.read_back:
            continue
        columns += [Column(name, f"WER %, {title}"), Column(f"{name} delta", "less the teacher's")]
    for name, title in OPINIONS.items() if teacher.mos else ():
        columns += [Column(name, title), Column(f"{name} delta", "less the teacher's")]
    columns.append(Column("f0", "F0: median Hz, sd, range st"))
    below = seeds_below(rows)
    return render_markdown(lines, columns) + (f"\n{below}" if below else "")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, metavar="FOLDER", help="the teacher's row")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--out", default="", metavar="MD")
    args = parser.parse_args(argv)
    try:
        rows = []
        for given in args.row:
            name, equals, folder = given.partition("=")
            if not (name and equals and folder):
                raise ConfigError(f"--row {given!r}: expected NAME=FOLDER")
            rows.append(row_of(name, folder))
        text = table(row_of("teacher", args.teacher), rows)
    except SpeechMTPError as error:
        print(f"table: error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    if args.out:
        Path(args.out).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
