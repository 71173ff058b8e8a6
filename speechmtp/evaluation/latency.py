"""Live recognition measured on the clock of the audio: word errors, delays of words, calls and computing time.

Every utterance is fed to a stream in small pieces, as fast as it can be decoded. Times of events are seconds of audio,
so that delays do not depend on the machine; what decoding takes is reported beside them, as processor seconds on a CPU.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

import numpy as np
import torch

from speechmtp.api import Recogniser
from speechmtp.audio.activity import FRAME, RATE, load_activity
from speechmtp.audio.resampling import StreamResampler
from speechmtp.clock import clock
from speechmtp.config import Range, check_fields
from speechmtp.data.kaldi import read_data_dir
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation.evaluation_sets import load_recogniser, word_errors
from speechmtp.evaluation.live_delays import Delays, SaidLive, delay_figures
from speechmtp.evaluation.results_page import processor_name
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.progress import track
from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import StreamEvent
from speechmtp.streaming.stream import RecognitionStream
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Request, Result
from speechmtp.words.word import Word


@dataclass(frozen=True)
class FeedConfig:
    """How utterances are fed: in pieces of `piece_ms`, with `silence` seconds of zeros behind each, in which the stream
    can find that speech has ended."""

    piece_ms: Annotated[int, Range(1, 60_000)] = 20
    silence: Annotated[float, Range(0, 60)] = 1.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        check_fields(self, "feed")

    def pieces(self, samples: np.ndarray, rate: float) -> list[np.ndarray]:
        """The pieces of an utterance [N] at `rate` Hz."""
        whole = np.concatenate([samples, np.zeros(round(self.silence * rate), np.float32)])
        count = int(1000 * len(whole) / (self.piece_ms * rate))
        edges = [round(number * self.piece_ms * rate / 1000) for number in range(1, count + 1)]
        return [piece for piece in np.split(whole, edges) if len(piece)]


@dataclass
class LiveSet:
    """Utterances to be heard live: samples [N] at the recogniser's rate, transcripts and, if known, speakers."""

    recogniser: Recogniser
    audio: Mapping[str, np.ndarray]
    transcripts: Mapping[str, str]
    speakers: Mapping[str, str] | None = None
    language: str = ""
    task: str = ""

    @property
    def seconds(self) -> float:
        """Duration of all utterances."""
        return sum(map(len, self.audio.values())) / self.recogniser.rate

    def errors(self, texts: Mapping[str, str], seed: int) -> dict[str, Any]:
        """Word errors of texts, with intervals."""
        return word_errors(texts, self.transcripts, self.speakers, self.recogniser.bundle.normalizer, seed)


def open_live_set(settings: EvaluationSettings) -> LiveSet:
    """Load the speech model and the audio that the settings name. ConfigError for a model that takes no speech,
    DataError for data that cannot be read or has no transcripts."""
    settings.check_speech()
    data = read_data_dir(settings.data, settings.root, allow_pipes=settings.allow_pipes)
    recogniser = load_recogniser(settings)
    audio = {one.id: one.load(recogniser.rate, settings.allow_pipes) for one in track(data.utterances, "reading")}
    return LiveSet(recogniser, audio, data.transcripts(), data.speakers(), settings.language, settings.task)


@dataclass
class Meter:
    """A model that counts what is asked of it: `passes` and their `calls`, seconds in `encoder`, `decoder` and for
    times of `words`. Every other question goes to the model."""

    model: RecognitionModel
    passes: int = 0
    calls: int = 0
    encoder: float = 0.0
    decoder: float = 0.0
    words: float = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def listen(self, *args: Any, **more: Any) -> Request:
        """As the model's, timed."""
        began = spent(self.model.device)
        request = self.model.listen(*args, **more)
        self.encoder += spent(self.model.device) - began
        return request

    def decode(self, requests: Sequence[Request], *args: Any, **more: Any) -> list[Result]:
        """As the model's, timed and counted."""
        began = spent(self.model.device)
        results = self.model.decode(requests, *args, **more)
        self.decoder += spent(self.model.device) - began
        self.passes += len(requests)
        self.calls += sum(result.trace.calls for result in results)
        return results

    def time_words(self, *args: Any, **more: Any) -> tuple[Word, ...]:
        """As the model's, timed."""
        began = spent(self.model.device)
        words = self.model.time_words(*args, **more)
        self.words += spent(self.model.device) - began
        return words


def spent(device: torch.device) -> float:
    """Processor seconds of this process so far; on a GPU seconds of a clock, once its work is done."""
    return time.process_time() if device.type == "cpu" else clock(device)


@dataclass
class _Row:
    """What is gathered of one way to recognise: a stream with a `config`, or offline without one."""

    label: str
    meter: Meter
    config: StreamConfig | None = None
    seconds: float = 0.0
    texts: dict[str, str] = field(default_factory=dict)
    said: dict[str, SaidLive] = field(default_factory=dict)


@dataclass(frozen=True)
class Latency:
    """The outcome of one run: a row of figures for offline decoding and for every stream, in order; the texts by the
    row's label and then by utterance; the words of the references with their times; and the `facts` of the run."""

    rows: list[dict[str, Any]]
    texts: dict[str, dict[str, str]]
    references: dict[str, tuple[Word, ...]]
    facts: dict[str, Any]


def run_latency(
    live: LiveSet, configs: Mapping[str, StreamConfig], feed: FeedConfig | None = None, seed: int = 0,
    label: str = "listening live",
) -> Latency:  # fmt: skip
    """Recognise every utterance offline by `ar` and by a stream of each configuration, which take turns.

    `configs` are by the label of their row. Words of the references are aligned to the audio (`reference_words`);
    delays are those of committed words that are right. `seed` is that of the intervals. ConfigError for nothing to run,
    and for a strategy that the model cannot run.
    """
    if not configs:
        raise ConfigError("configs={}: nothing to run; give one stream at least")
    feed, recogniser = feed or FeedConfig(), live.recogniser
    plain = recogniser.runner.prepared(parse_strategy("ar"))
    rows = [_Row(name, Meter(recogniser), config) for name, config in configs.items()]
    offline, names = _Row("offline", Meter(recogniser)), sorted(live.audio)
    listening, references = _Listening(), dict[str, tuple[Word, ...]]()
    for row in rows:  # warm up: the first call is slower
        _hear_live(live, names[:1], _Row("", Meter(recogniser), row.config), feed)
    _hear_whole(live, names[:1], _Row("", Meter(recogniser)), plain)
    for turn, name in enumerate(track(names, label)):
        references |= _hear_whole(live, [name], offline, plain)
        listening.hear(live, name, feed)
        for place in range(len(rows)):
            _hear_live(live, [name], rows[(place + turn) % len(rows)], feed)
    fed = live.seconds + len(names) * feed.silence
    found = [offline_row(live, offline, seed)] + [live_row(live, row, references, fed, listening, seed) for row in rows]
    facts = {
        "machine": processor_name(), "device": str(recogniser.device), "threads": torch.get_num_threads(),
        "dtype": str(recogniser.dtype).removeprefix("torch."), "utterances": len(names), "audio_seconds": live.seconds,
        "piece_ms": feed.piece_ms, "silence": feed.silence, "ar_ms_per_call": found[0]["decoder_ms_per_call"],
        "normalizer": recogniser.bundle.normalizer, "aligned_by": "reference" if recogniser.has_ctc else "ar's text",
        "seed": seed,
    }  # fmt: skip
    return Latency(found, {row.label: row.texts for row in (offline, *rows)}, references, facts)


def _hear_whole(
    live: LiveSet, names: Sequence[str], row: _Row, strategy: Strategy
) -> dict[str, tuple[Word, ...]]:  # fmt: skip
    """Recognise utterances offline; return the words of their references with times."""
    recogniser, found = live.recogniser, dict[str, tuple[Word, ...]]()
    for name in names:
        began, samples, parts = spent(recogniser.device), live.audio[name], list[tuple[Request, Result]]()
        for start, end in recogniser.spans(samples):
            request = row.meter.listen(samples[start:end], name, live.language, live.task)
            parts += zip([request], row.meter.decode([request], strategy, recorded=Recorded()))
        row.seconds += spent(recogniser.device) - began
        row.texts[name] = " ".join(text for _, result in parts if (text := result.text.strip()))
        found[name] = reference_words(recogniser, parts, live.transcripts.get(name, ""))
    return found


def reference_words(
    recogniser: Recogniser, parts: Sequence[tuple[Request, Result]], text: str
) -> tuple[Word, ...]:  # fmt: skip
    """The words that an utterance has, with times where they can be found: those of the transcript `text` on the best
    path through the posteriors of the model's CTC head, or without one those of `ar`'s output by cross-attention. Times
    are None for a recording that was heard in several `parts`."""
    if len(parts) != 1 or parts[0][0].empty:
        return tuple(Word(word) for word in text.split())
    request, result = parts[0]
    tokens = recogniser.bundle.model.encode(text) if recogniser.has_ctc else list(result.tokens)
    return recogniser.time_words(request, tokens)


def _hear_live(live: LiveSet, names: Sequence[str], row: _Row, feed: FeedConfig) -> None:
    """Recognise utterances by a stream."""
    recogniser = live.recogniser
    for name in names:
        model = cast(RecognitionModel, row.meter)
        stream, events = RecognitionStream(model, row.config, live.language, live.task), list[StreamEvent]()
        pieces, began = feed.pieces(live.audio[name], recogniser.rate), spent(recogniser.device)
        for piece in pieces:
            events += stream.feed(piece)
        events += stream.finish()
        row.seconds += spent(recogniser.device) - began
        row.said[name], row.texts[name] = SaidLive.of(events), str(stream.result())


class _Listening:
    """Processor seconds of the network that tells speech, frame by frame as a stream runs it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def hear(self, live: LiveSet, name: str, feed: FeedConfig) -> None:
        """Run it over an utterance as it is fed."""
        rate, cpu = live.recogniser.rate, torch.device("cpu")
        samples = np.concatenate(feed.pieces(live.audio[name], rate))
        samples = samples if rate == RATE else StreamResampler(rate, RATE).push(samples)
        stream, frames = load_activity().stream(), range(0, len(samples), FRAME)
        began = spent(cpu)
        for start in frames:
            stream.push(samples[start : start + FRAME])
        self.seconds += spent(cpu) - began


def offline_row(live: LiveSet, row: _Row, seed: int) -> dict[str, Any]:
    """The figures of offline decoding by `ar`."""
    return {"label": row.label, "kind": "offline", **live.errors(row.texts, seed), **_computing(row, live.seconds)}


def live_row(
    live: LiveSet, row: _Row, references: Mapping[str, Sequence[Word]], fed: float, listening: _Listening, seed: int
) -> dict[str, Any]:  # fmt: skip
    """The figures of a stream; `fed` are the seconds that were fed to it."""
    figures = _computing(row, fed)
    seconds, config = row.seconds, row.config
    assert config is not None
    return {
        "label": row.label, "kind": "live", "step": config.step, **said_figures(live, row.said, references, seed),
        **figures, "vad_share": listening.seconds / seconds if seconds else None,
        "silence_ms": config.activity.min_silence_ms,
    }  # fmt: skip


def said_figures(
    live: LiveSet, said: Mapping[str, SaidLive], references: Mapping[str, Sequence[Word]], seed: int
) -> dict[str, Any]:
    """Word errors and delays of what was said live, by whatever recogniser."""
    normalise = get_normalizer(live.recogniser.bundle.normalizer)
    delays = [Delays.of(references[name], one, normalise) for name, one in sorted(said.items())]
    return live.errors({name: one.text for name, one in said.items()}, seed) | delay_figures(delays)


def _computing(row: _Row, fed: float) -> dict[str, Any]:
    """Passes, calls and what they took."""
    meter, seconds = row.meter, row.seconds

    def each(value: float, count: float) -> float | None:
        return value / count if count else None

    return {
        "passes": meter.passes, "calls": meter.calls, "calls_per_pass": each(meter.calls, meter.passes),
        "encoder_ms_per_pass": each(1000 * meter.encoder, meter.passes),
        "decoder_ms_per_pass": each(1000 * meter.decoder, meter.passes),
        "decoder_ms_per_call": each(1000 * meter.decoder, meter.calls),
        "decoder_per_encoder": each(meter.decoder, meter.encoder),
        "encoder_share": each(meter.encoder, seconds), "decoder_share": each(meter.decoder, seconds),
        "words_share": each(meter.words, seconds),
        "seconds": seconds, "fed_seconds": fed, "rtf": each(seconds, fed),
    }  # fmt: skip
