"""How many words does a stream say to what is no speech, and what does its guard cost where there is speech?

Every recording is fed to a stream as it is configured, to one that drops nothing, and, without transcripts, is heard
whole as well. `zeros` and `white` in place of a directory are ten minutes of silence and of white noise at -20 dB. With
transcripts the table has word error rates, without them words a minute. `--list` prints what was said.

    python benchmarks/live_noise.py NOISE_DIR zeros white SPEECH_DIR [--root ROOT] [--fold K] [--model default]
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import read_data_dir
from speechmtp.progress import track
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.scoring.wer import score
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Final
from speechmtp.text.normalize import get_normalizer

MINUTES = 10


def recordings(name: str, root: str | None, rate: int) -> Iterator[tuple[str, np.ndarray, str | None]]:
    """Names, samples [N] and transcripts of a directory, or one recording that is made."""
    if name in ("zeros", "white"):
        noise = 0.1 * np.random.default_rng(0).standard_normal(MINUTES * 60 * rate).astype(np.float32)
        yield name, noise if name == "white" else np.zeros_like(noise), None
        return
    for one in track(read_data_dir(name, root, need_text=False).utterances, name):
        yield one.id, one.load(rate, False), one.text or None


def streamed(recogniser: Recogniser, config: StreamConfig, audio: np.ndarray) -> tuple[str, list[Final]]:
    """What a stream says, and its segments."""
    stream, size = recogniser.create_stream(config), recogniser.rate // 10
    events = [event for start in range(0, len(audio), size) for event in stream.feed(audio[start : start + size])]
    finals = [event for event in (*events, *stream.finish()) if isinstance(event, Final)]
    return stream.result().text, finals


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--root")
    parser.add_argument("--model", default="default")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="hear each N-th recording alone")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = load(args.model, "cpu")
    own = StreamConfig(words=False)
    sides = {"guarded": own, "unguarded": replace(own, activity_floor=0.0)}
    rows = []
    for name in args.data:
        texts: dict[str, dict[str, str]] = {side: {} for side in (*sides, "whole")}
        references, seconds = {}, 0.0
        for number, (key, audio, text) in enumerate(recordings(name, args.root, recogniser.rate)):
            if number % args.every:
                continue
            seconds += len(audio) / recogniser.rate
            for side, config in sides.items():
                texts[side][key], finals = streamed(recogniser, config, audio)
                if args.list and texts[side][key]:
                    print(name, key, side, texts[side][key], [f"{one.start:.1f}-{one.end:.1f}" for one in finals])
            texts["whole"][key] = recogniser.transcribe((audio, recogniser.rate), jobs=1).text
            if text is not None:
                references[key] = text
        norm = get_normalizer(recogniser.bundle.normalizer)
        for side, said in texts.items():
            words = sum(len(text.split()) for text in said.values())
            wer = score(references, said, norm).wer if references else None
            rows.append({"name": name, "side": side, "minutes": seconds / 60, "words": words,
                         "rate": words / (seconds / 60), "wer": wer})  # fmt: skip
    columns = [
        Column("name", "recordings"), Column("side", "stream"), Column("minutes", "minutes"),
        Column("words", "words"), Column("rate", "words a minute"), Column("wer", "WER %"),
    ]  # fmt: skip
    print(render_markdown(rows, columns))


if __name__ == "__main__":
    main()
