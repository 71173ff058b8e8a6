#!/usr/bin/env python3
"""Make the spoken examples of the package with espeak-ng: a Kaldi data directory of FLAC files.

Usage: tools/make_examples.py [--out speechmtp/assets/examples]
"""

import argparse
import io
import json
import subprocess
from pathlib import Path

import soundfile
import soxr

# id, what is said, how espeak-ng is told to say it, voice, words a minute
EXAMPLES = [
    ("digits", "FOUR TWO SEVEN NINE", "four. two. seven. nine.", "en-us+m3", 155),
    ("letters", "S M I T H", "S. M. I. T. H.", "en-us+f5", 155),
    ("date", "SEPTEMBER TWENTY FIRST NINETEEN SIXTY", "September twenty first, nineteen sixty", "en-us+m5", 170),
    ("command", "ENTER SIX TWO FOUR", "enter six. two. four.", "en-us+m1", 155),
]
RATE = 16000


def speak(text: str, voice: str, speed: int) -> bytes:
    """WAV bytes of espeak-ng's voice."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    return subprocess.run(command, capture_output=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("speechmtp/assets/examples"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for name, words, spelling, voice, speed in sorted(EXAMPLES):
        wav = speak(spelling, voice, speed)
        samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
        samples = soxr.resample(samples, rate, RATE)
        samples = 0.3 * samples / abs(samples).max()
        soundfile.write(out / f"{name}.flac", samples, RATE)
        tables["wav.scp"].append(f"{name} {name}.flac")
        tables["text"].append(f"{name} {words}")
        tables["utt2spk"].append(f"{name} {name}")
    for table, lines in tables.items():
        (out / table).write_text("\n".join(lines) + "\n")
    (out / "spk2utt").write_text("".join(f"{n} {n}\n" for n, *_ in sorted(EXAMPLES)))
    (out / "info.json").write_text(json.dumps({"fs": RATE, "source": "espeak-ng", "licence": "Apache-2.0"}) + "\n")


if __name__ == "__main__":
    main()
