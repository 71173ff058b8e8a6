"""A voice's temperature and top-k, by what was measured of development sentences; the voice with them.

    python tools/voice_eval/choose.py --try 0.7,20=rows/t0.7_k20 --try 0.8,20=rows/t0.8_k20 \\
        --recordings rows/recordings --model exp/voice/model --out exp/tuned --table exp/tune.md

Of the tries whose word errors, pooled over recognisers, are at most one point above the fewest, the one with the best
mean DistillMOS is taken; where opinions were not predicted, the one whose F0 spreads most like that of the recordings.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from table import RECOGNISERS, Row, row_of

from speechmtp.config import write_yaml
from speechmtp.errors import ConfigError, SpeechMTPError
from speechmtp.scoring.tables import Column, render_markdown

MARGIN = 1.0  # points of word errors


@dataclass(frozen=True)
class Try:
    """A temperature, a top-k (0: all tokens), and what was measured of them."""

    temperature: float
    top_k: int
    row: Row

    @property
    def wer(self) -> float:
        """Word errors in percent, pooled over recognisers."""
        found = [self.row.read_back[name] for name in RECOGNISERS if name in self.row.read_back]
        return 100.0 * sum(sum(one["errors"].values()) for one in found) / sum(sum(o["words"].values()) for o in found)

    @property
    def opinion(self) -> float | None:
        """The mean DistillMOS, if it was measured."""
        return self.row.mos["mean"]["distillmos"] if self.row.mos else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of F0 in semitones."""
        return self.row.pitch.get("sd_st")


def parse_try(text: str) -> Try:
    """A try of `TEMPERATURE,TOP_K=FOLDER`; ConfigError for anything else."""
    setting, _, folder = text.partition("=")
    try:
        temperature, top_k = setting.split(",")
        return Try(float(temperature), int(top_k), row_of(text, folder))
    except ValueError:
        raise ConfigError(f"--try {text!r}: expected TEMPERATURE,TOP_K=FOLDER") from None


def best_of(tries: Sequence[Try], spread: float | None) -> Try:
    """The chosen try; `spread` is the recordings' standard deviation of F0."""
    least = min(one.wer for one in tries)
    near = [one for one in tries if one.wer <= least + MARGIN]
    if all(one.opinion is not None for one in near):
        return max(near, key=lambda one: one.opinion or 0.0)
    return min(near, key=lambda one: abs((one.spread or 0.0) - (spread or 0.0)))


def write_voice(model: Path, out: Path, chosen: Try) -> None:
    """Copy a model folder, with the chosen sampling as the voice's own."""
    import yaml

    shutil.copytree(model, out, dirs_exist_ok=True)
    config = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8")) | {
        "sampling": {"temperature": chosen.temperature, "top_k": chosen.top_k}
    }
    write_yaml(out / "config.yaml", config)


def table(tries: Sequence[Try], chosen: Try, recordings: Row) -> str:
    """The tries in markdown."""
    lines = [{"temperature": one.temperature, "top_k": one.top_k, "wer": one.wer, "opinion": one.opinion,
              "spread": one.spread, "chosen": "x" if one is chosen else ""} for one in tries]  # fmt: skip
    text = render_markdown(lines, [
        Column("temperature"), Column("top_k", "top-k"), Column("wer", "WER %, pooled"),
        Column("opinion", "DistillMOS", 3), Column("spread", "F0 sd, st"), Column("chosen"),
    ])  # fmt: skip
    theirs = recordings.pitch.get("sd_st")
    sentences = recordings.read_back["sentences"]
    told = "" if theirs is None else f", F0 sd {theirs:.2f} st"
    return f"{text}\nThe recordings of these {sentences} sentences{told}.\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="tries", action="append", required=True, metavar="TEMPERATURE,TOP_K=FOLDER")
    parser.add_argument("--recordings", required=True, metavar="FOLDER", help="measures of the recordings")
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--out", required=True, metavar="DIR", help="model folder that is written")
    parser.add_argument("--table", required=True, metavar="MD")
    args = parser.parse_args(argv)
    try:
        tries, recordings = [parse_try(text) for text in args.tries], row_of("recordings", args.recordings)
        chosen = best_of(tries, recordings.pitch.get("sd_st"))
        write_voice(Path(args.model), Path(args.out), chosen)
    except (SpeechMTPError, OSError) as error:
        print(f"choose: error: {error}", file=sys.stderr)
        return 2
    text = table(tries, chosen, recordings)
    Path(args.table).write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
