"""A live transcriber of others in a process of its own, for `live_peers.py`: asked for one recording at a time.

What it needs is looked for in the folder PEERS; nothing is downloaded. Moonshine's transcriber is fed as its own
microphone would do. What it shows after each of its updates is kept, and when each of its lines is complete.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sides import answer_all

from speechmtp.data.kaldi import read_data_dir
from speechmtp.evaluation.latency import FeedConfig

RATE = 16000


class Watch:
    """What a stream of Moonshine's showed: texts after its updates, and the lines that are complete, each with the
    seconds that were fed by then."""

    def __init__(self, stream: Any) -> None:
        self.samples, self.updates, self.stopping = 0, 0, False
        self.shown: list[tuple[float, str]] = []
        self.complete: dict[int, tuple[float, str]] = {}  # by line, in their order
        self.ended: dict[int, float] = {}  # the lines among them that silence ended
        self._update = stream.update_transcription
        stream.update_transcription = self.update

    @property
    def fed(self) -> float:
        """Seconds that were fed."""
        return self.samples / RATE

    def update(self, *args: Any) -> Any:
        """Stands in for the stream's method of updates."""
        found = self._update(*args)
        self.updates += 1
        self.shown.append((self.fed, " ".join(line.text.strip() for line in found.lines)))
        for line in found.lines:
            text = line.text.strip()
            if line.is_complete and self.complete.get(line.line_id, (0.0, None))[1] != text:
                self.complete[line.line_id] = self.fed, text
                if not self.stopping:
                    self.ended[line.line_id] = self.fed
        return found

    def answer(self) -> dict[str, Any]:
        """The parts of a `SaidLive`, and the number of updates."""
        words, ends = list[tuple[str, float]](), list[tuple[float, int]]()
        for line, (at, text) in self.complete.items():
            words += [(word, at) for word in text.split()]
            if line in self.ended:
                ends.append((at, len(words)))
        text = self.shown[-1][1] if self.shown else ""
        return {"text": text, "words": words, "shown": self.shown, "ends": ends, "updates": self.updates}


def heard(transcriber: Any, samples: np.ndarray, feed: FeedConfig, interval: float) -> dict[str, Any]:
    """What the transcriber says of samples [N] at 16 kHz, and the processor seconds that it took."""
    pieces = [piece.tolist() for piece in feed.pieces(samples, RATE)]
    stream = transcriber.create_stream(update_interval=interval)
    watch, began = Watch(stream), time.process_time()
    stream.start()
    for piece in pieces:
        watch.samples += len(piece)
        stream.add_audio(piece, RATE)
    watch.stopping = True
    stream.stop()
    taken = time.process_time() - began
    stream.close()
    return watch.answer() | {"seconds": taken}


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """To the first request what was loaded, or why it cannot be (`missing`); then what it said."""
    asked = next(requests)
    if folder := os.environ.get("PEERS"):
        sys.path.append(folder)
    data = read_data_dir(asked["data"], asked["root"])
    feed = FeedConfig(asked["piece_ms"], asked["silence"])
    try:
        from importlib.metadata import version

        from moonshine_voice.moonshine_api import ModelArch
        from moonshine_voice.transcriber import Transcriber
        from moonshine_voice.utils import get_model_path

        transcriber = Transcriber(
            str(get_model_path("tiny-en")), ModelArch.TINY, options={"return_audio_data": "false"}
        )
    except (ImportError, OSError) as error:
        yield {"missing": " ".join(str(error).split())[:200]}
        return
    yield {"about": f"moonshine-voice {version('moonshine-voice')}, its tiny-en"}
    for asked in requests:
        yield heard(transcriber, data[asked["name"]].load(RATE, False), feed, asked["interval"])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    answer_all(serve)
