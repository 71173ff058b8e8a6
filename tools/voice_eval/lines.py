"""Sentences of a data directory, and its recordings of them as a row of WAV files.

python tools/voice_eval/lines.py data/dev lines.txt --first 20 --recordings exp/rows/recordings
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from speechmtp.audio.io import write_audio
from speechmtp.data.kaldi import read_data_dir
from speechmtp.data.tables import write_table
from speechmtp.errors import SpeechMTPError

RATE = 24000


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="data directory")
    parser.add_argument("out", help="file of lines `id text`")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first N utterances (default: all)")
    parser.add_argument("--recordings", required=True, metavar="ROW", help="folder for <id>.wav")
    args = parser.parse_args(argv)
    try:
        data = read_data_dir(args.data)
        used, texts, row = data.utterances[: args.first or None], data.transcripts(), Path(args.recordings)
        row.mkdir(parents=True, exist_ok=True)
        for one in used:
            write_audio(row / f"{one.id}.wav", one.load(RATE), RATE)
        write_table(args.out, {one.id: texts[one.id] for one in used})
    except SpeechMTPError as error:
        print(f"lines: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
