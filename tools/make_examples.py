#!/usr/bin/env python3
"""Make the spoken examples of the package: letters and numbers by espeak-ng, and an excerpt of LibriSpeech.

Usage: tools/make_examples.py [--out speechmtp/assets/examples] [--librispeech AUDIO_DIR]

`--out` gets a Kaldi data directory of FLAC files; with `--librispeech`, a folder that has the file of `READING` at any
depth, its folder `speech` gets another one with the real recording.
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
# The real recording: name, LibriSpeech utterance, seconds of it (cut in pauses), what is said.
READING = ("reading", "446-123501-0000", (4.52, 11.81),
           "I OPENED MY EYES UPON A STRANGE AND WEIRD LANDSCAPE I KNEW THAT I WAS ON MARS")  # fmt: skip
CREDIT = (
    "LibriSpeech 446-123501-0000, 4.52 to 11.81 s, reader 446 of LibriVox; V. Panayotov et al., LibriSpeech: an ASR "
    "corpus based on public domain audio books, ICASSP 2015; CC BY 4.0. Text: A Princess of Mars, E. R. Burroughs, 1917"
)


def speak(text: str, voice: str, speed: int) -> bytes:
    """WAV bytes of espeak-ng's voice."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    return subprocess.run(command, capture_output=True, check=True).stdout


def write_set(out: Path, rows: list[tuple[str, str, str]], info: dict[str, object]) -> None:
    """Tables beside the FLAC files; `rows` are (utterance, speaker, what is said)."""
    tables = {
        "wav.scp": [f"{name} {name}.flac" for name, _, _ in rows],
        "text": [f"{name} {words}" for name, _, words in rows],
        "utt2spk": [f"{name} {speaker}" for name, speaker, _ in rows],
        "spk2utt": [f"{speaker} {name}" for name, speaker, _ in rows],
    }
    for table, lines in tables.items():
        (out / table).write_text("\n".join(lines) + "\n")
    (out / "info.json").write_text(json.dumps(info) + "\n")


def synthesise(out: Path) -> None:
    """The spelled letters and numbers."""
    out.mkdir(parents=True, exist_ok=True)
    for name, _, spelling, voice, speed in EXAMPLES:
        samples, rate = soundfile.read(io.BytesIO(speak(spelling, voice, speed)), dtype="float32")
        samples = soxr.resample(samples, rate, RATE)
        soundfile.write(out / f"{name}.flac", 0.3 * samples / abs(samples).max(), RATE)
    rows = [(name, name, words) for name, words, *_ in sorted(EXAMPLES)]
    write_set(out, rows, {"fs": RATE, "source": "espeak-ng", "licence": "Apache-2.0"})


def excerpt(out: Path, librispeech: Path) -> None:
    """The real recording, its samples as they are."""
    name, utterance, (start, end), words = READING
    [path] = librispeech.rglob(f"{utterance}.flac")
    out.mkdir(parents=True, exist_ok=True)
    samples, rate = soundfile.read(path, dtype="int16", start=round(start * RATE), stop=round(end * RATE))
    soundfile.write(out / f"{name}.flac", samples, rate, subtype="PCM_16")
    write_set(out, [(name, utterance.split("-")[0], words)], {"fs": RATE, "source": CREDIT, "licence": "CC BY 4.0"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("speechmtp/assets/examples"))
    parser.add_argument(
        "--librispeech", type=Path, help="folder of LibriSpeech audio; without it speech/ is left alone"
    )
    args = parser.parse_args()
    synthesise(args.out)
    if args.librispeech is not None:
        excerpt(args.out / "speech", args.librispeech)


if __name__ == "__main__":
    main()
