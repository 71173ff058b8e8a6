"""The page of results of a voice: the table of rows, how temperature and top-k were chosen, and the spread over seeds.

    python tools/voice_eval/results.py --teacher rows/teacher.measures --row voice:0=rows/voice_0.measures \\
        --tune exp/tune.md --melody exp/melody.json --run "./run.sh" --name train --out RESULTS.md

The page's text outside the markers of `--name` is kept.
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from rows import read_json
from table import row_of, table

from speechmtp.errors import ConfigError, SpeechMTPError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from sides import commit_of, processor  # noqa: E402


def block(args: argparse.Namespace) -> str:
    """The measured part of the page."""
    rows = []
    for given in args.row:
        name, equals, folder = given.partition("=")
        if not equals:
            raise ConfigError(f"--row {given!r}: expected NAME=FOLDER")
        rows.append(row_of(name, folder))
    teacher = row_of("teacher", args.teacher)
    spoken = f"{teacher.read_back['sentences']} sentences"
    if teacher.mos:
        spoken += f", opinions on the first {teacher.mos['files']}"
    spread = read_json(args.melody).get("over_rows")
    told = ""
    if spread and spread["sentence_st"] is not None:
        frame = "" if spread["frame_st"] is None else f", frame by frame {spread['frame_st']:.2f} st"
        told = f"Spread of F0 over the seeds: a sentence's mean {spread['sentence_st']:.2f} st{frame}.\n"
    facts = f"{processor()}, PyTorch {torch.__version__}, Python {platform.python_version()}"
    return (
        f"## {args.name}\n\n{date.today()}, commit {commit_of(ROOT)}; {facts}. Command: `{args.run.strip()}`. "
        f"{spoken}; normaliser {teacher.read_back['normalizer']['id']}; 95 % intervals by sentence, "
        f"differences from the teacher paired.\n\n{table(teacher, rows)}{told}\n### Temperature and top-k, on dev\n\n"
        f"{Path(args.tune).read_text(encoding='utf-8')}"
    )


def placed(page: str, name: str, new: str) -> str:
    """A page with what stands between the markers of `name` replaced, or added at its end."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = f"{begin}\n{new}{end}\n"
    if begin in page and end in page:
        rest = page[page.index(end) + len(end) :].lstrip("\n")
        return page[: page.index(begin)] + whole + ("\n" + rest if rest else "")
    return page.rstrip("\n") + "\n\n" + whole


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, metavar="FOLDER", help="measures of the teacher's row")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--tune", required=True, metavar="MD")
    parser.add_argument("--melody", required=True, metavar="JSON")
    parser.add_argument("--run", required=True, metavar="COMMAND", help="what was run")
    parser.add_argument("--name", required=True, help="of the experiment")
    parser.add_argument("--out", required=True, metavar="MD")
    args = parser.parse_args(argv)
    try:
        new, out = block(args), Path(args.out)
    except (SpeechMTPError, OSError) as error:
        print(f"results: error: {error}", file=sys.stderr)
        return 2
    page = out.read_text(encoding="utf-8") if out.exists() else "# Results\n"
    out.write_text(placed(page, args.name, new), encoding="utf-8")
    print(new, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
