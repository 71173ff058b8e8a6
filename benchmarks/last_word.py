"""Is the last word there that ends 20 ms before `finish`?

Recordings are cut 20 ms behind their last word, whose end is known exactly (Kaldi directories with `phones` and
`frames`, as `tts/kokoro` has them), and fed to a stream in pieces. Only recordings count whose last word the model says
rightly when it hears them whole.

    python benchmarks/last_word.py DATA_DIR [--first 200] [--behind 0.02] [--model default]
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import read_data_dir
from speechmtp.progress import track
from speechmtp.text.normalize import get_normalizer

SYMBOL = 0.025  # seconds of a frame


def ends_of_speech(folder: Path) -> dict[str, float]:
    """Seconds at which the last symbol that is no punctuation ends, by utterance."""
    found = {}
    lines = (folder / "phones").read_text(encoding="utf-8").splitlines()
    phones = dict(line.split(" ", 1) for line in lines)
    for line in (folder / "frames").read_text(encoding="utf-8").splitlines():
        name, *counts = line.split()
        spoken = max(i for i, symbol in enumerate(phones[name]) if symbol.isalpha())
        found[name] = SYMBOL * sum(int(count) for count in counts[: spoken + 2])  # a pad stands before the symbols
    return found


def streamed(recogniser: Recogniser, audio: np.ndarray) -> str:
    """What a stream says that is fed 20 ms at a time."""
    stream, size = recogniser.create_stream(), recogniser.rate // 50
    for start in range(0, len(audio), size):
        stream.feed(audio[start : start + size])
    stream.finish()
    return stream.result().text


def last(text: str) -> str:
    """The last word of a text, as it is scored; the model writes two full stops behind some."""
    words = get_normalizer("whisper-en")(text.rstrip(" .,?!")).split()
    return words[-1] if words else ""


def main() -> None:
    """Prints how many last words are there, and which are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--root")
    parser.add_argument("--model", default="default")
    parser.add_argument("--first", type=int, default=200, metavar="N", help="recordings")
    parser.add_argument("--behind", type=float, default=0.02, help="seconds of audio behind the last word")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser, ends = load(args.model, "cpu"), ends_of_speech(args.data)
    rate, missing, whole, count = recogniser.rate, [], 0, 0
    for utterance in track(read_data_dir(args.data, args.root).utterances, "recordings"):
        audio = utterance.load(rate, False)
        word = last(utterance.text)
        if count == args.first or not word or last(recogniser.transcribe((audio, rate), jobs=1).text) != word:
            continue
        cut = audio[: round((ends[utterance.id] + args.behind) * rate)]
        said = streamed(recogniser, cut)
        whole += last(recogniser.transcribe((cut, rate), jobs=1).text) == word
        missing += [] if last(said) == word else [f"{utterance.id}: {word!r} expected, {said[-30:]!r} said"]
        count += 1
    print(f"{count - len(missing)} of {count} last words are there; heard whole at once, {whole} are")
    print("\n".join(missing))


if __name__ == "__main__":
    main()
