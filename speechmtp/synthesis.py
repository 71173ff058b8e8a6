"""Speech from text: sentences of units, their durations, speech tokens by the decoding engine, samples by the codec."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from speechmtp.codec.contract import FRAME, RATE, Codec, Spans
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.g2p.frontend import FrontEnd
from speechmtp.g2p.symbols import PAD, SYMBOLS
from speechmtp.g2p.units import Sentence
from speechmtp.loaded_model import LoadedModel
from speechmtp.models.bases.contract import UnitModel
from speechmtp.types import Request, TokenRules, Trace, sum_traces

Markup = Literal["text", "ssml"]
SLOWEST, FASTEST = 0.7, 1.4
NOT_SPOKEN = frozenset(' ;:,.!?—…"()“”')  # units without a sound of their own
TOGETHER = 8  # sentences that are decoded together


@dataclass(frozen=True)
class Mark:
    """A spoken word: `text` as it is written at characters [begin, end) of the source, spoken from `start` to `stop`
    seconds."""

    text: str
    begin: int
    end: int
    start: float
    stop: float


@dataclass(frozen=True)
class Speech:
    """Samples `audio` [N] float32 in [-1, 1] at `rate` Hz, with the times of its words. `trace` counts calls and
    tokens; `skipped` are the characters and words of the text that could not be read."""

    audio: np.ndarray = field(repr=False)
    rate: int
    marks: tuple[Mark, ...] = ()
    trace: Trace = field(default_factory=Trace)
    skipped: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.audio) / self.rate

    def save(self, path: str | Path) -> None:
        """Write an audio file; its name's ending says the format: wav, flac, mp3, ogg or opus."""
        from speechmtp.audio.writer import AudioWriter

        with AudioWriter(path, self.rate) as writer:
            writer.write(self.audio)


@dataclass(frozen=True)
class Planned:
    """A sentence with the spans of its units and the decoding request of its tokens, both None if it has no units;
    `number` counts sentences."""

    sentence: Sentence
    number: int
    spans: Spans | None = None
    request: Request | None = None

    @property
    def samples(self) -> int:
        """The planned number of samples."""
        return 0 if self.spans is None else FRAME * int(self.spans.frames.sum())


@dataclass(repr=False)
class Synthesiser(LoadedModel):
    """Text to speech with one voice; immutable after loading, safe to share.

    >>> import speechmtp
    >>> voice = speechmtp.load_voice()
    >>> voice.synthesize("Hello there.").save("hello.wav")
    """

    frontend: FrontEnd = field(default_factory=FrontEnd)

    @property
    def model(self) -> UnitModel:
        """The model of durations, hints and trunk."""
        return self.bundle.unit_model

    @property
    def codec(self) -> Codec:
        """The codec, which turns tokens into samples."""
        assert self.bundle.codec is not None  # by `load_voice`
        return self.bundle.codec

    def synthesize(
        self, text: str, strategy: str | Strategy | None = None, *, seed: int = 0, speed: float = 1.0,
        markup: Markup = "text", sampling: SamplingConfig | None = None, batch: int = TOGETHER,
    ) -> Speech:  # fmt: skip
        """Speak a text of any length; `Speech.save` writes it to a file.

        One seed gives one recording, whatever the strategy drafts and whatever else is spoken at the same time.
        `speed` is from 0.7 to 1.4; `markup` is `text` or `ssml`; `batch` sentences are decoded together. The other
        arguments are those of `stream`. ConfigError for a speed out of range, DataError for markup that cannot be read.
        """
        parts = list(self._parts(text, strategy, seed, speed, markup, sampling, batch))
        return joined(parts, self.codec.rate)

    def stream(
        self, text: str, strategy: str | Strategy | None = None, *, seed: int = 0, speed: float = 1.0,
        markup: Markup = "text", sampling: SamplingConfig | None = None, batch: int = 1,
    ) -> Iterator[Speech]:  # fmt: skip
        """Speak a text sentence by sentence, each as soon as it is ready; joined they are what `synthesize` gives.

        `strategy` is a string as on the command line (default: the voice's own); `sampling` replaces the voice's
        temperature and truncation. `batch` sentences are decoded together, which is faster and makes the first wait.
        """
        return self._parts(text, strategy, seed, speed, markup, sampling, batch)

    def plan(self, text: str, *, speed: float = 1.0, markup: Markup = "text") -> Iterator[Planned]:
        """The sentences of a text with their spans and decoding requests, lazily; a sentence without units has a
        request of no tokens."""
        if not SLOWEST <= speed <= FASTEST:
            raise ConfigError(f"speed={speed}: expected {SLOWEST} to {FASTEST}")
        for number, sentence in enumerate(self.frontend.sentences(text, markup)):
            yield self.planned(sentence, number, speed)

    @torch.inference_mode()
    def planned(self, sentence: Sentence, number: int = 0, speed: float = 1.0) -> Planned:
        """One sentence with the spans of its units and its decoding request."""
        units = sentence.units
        if not units:
            return Planned(sentence, number)
        framed = [units[0], *units, units[-1]]  # silence before and after belongs to the first and the last word
        ids = torch.tensor([PAD, *(SYMBOLS[unit.symbol] for unit in units), PAD], device=self.device)
        words = torch.tensor([unit.word for unit in framed], device=self.device)
        usual = self.model.durations(ids[None], words[None])[0].double().cpu().numpy()
        rates = [speed * unit.speed for unit in framed]
        fixed = [None, *(unit.seconds for unit in units), None]
        frames = torch.from_numpy(_whole_frames(usual, rates, fixed)).to(self.device)
        rules = TokenRules((), may_repeat=self.codec.silent)
        request = replace(self.model.read(ids, words, frames, rules), noise_key=number)
        return Planned(sentence, number, Spans(*(part.cpu().numpy() for part in (ids, words, frames))), request)

    def samples(self, planned: Planned, tokens: Sequence[int], seed: int = 0) -> np.ndarray:
        """The samples [N] of a sentence's speech tokens."""
        if planned.spans is None:
            return np.zeros(0, dtype=np.float32)
        return self.codec.decode(tokens, planned.spans, noise_seed(seed, planned.number))

    def audio(self, request: Request, tokens: Sequence[int]) -> None:
        """Nothing: samples are made sentence by sentence, by `samples`."""
        return None

    def chosen(self, strategy: str | Strategy | None) -> Strategy:
        """The strategy of a string, or the voice's own."""
        named = parse_strategy(strategy) if isinstance(strategy, str) and strategy else strategy
        return named if isinstance(named, Strategy) else self.default_strategy

    def sampling_with(self, seed: int, sampling: SamplingConfig | None = None) -> SamplingConfig:
        """The sampling options, those of the voice if none are given, with this seed."""
        return replace(sampling or self.bundle.config.sampling or SamplingConfig(), seed=seed)

    def _parts(
        self, text: str, strategy: str | Strategy | None, seed: int, speed: float, markup: Markup,
        sampling: SamplingConfig | None, together: int,
    ) -> Iterator[Speech]:  # fmt: skip
        """The speech of each sentence, with the times of its words from the beginning of the text."""
        if together < 1:
            raise ConfigError(f"synthesize: batch={together}, expected 1 or more")
        chosen, options, before = self.chosen(strategy), self.sampling_with(seed, sampling), 0
        sentences = iter(self.plan(text, speed=speed, markup=markup))
        while group := list(islice(sentences, together)):
            requests = [one.request for one in group if one.request is not None]
            results = iter(self.decode(requests, chosen, options) if requests else [])
            for one in group:
                result = None if one.request is None else next(results)
                audio = self.samples(one, result.tokens if result else (), seed)
                marks = marks_of(one, before / self.codec.rate)
                before += len(audio)
                trace = result.trace if result else Trace(finished=True)
                yield Speech(audio, self.codec.rate, marks, trace, one.sentence.skipped)


def _whole_frames(usual: np.ndarray, rates: Sequence[float], fixed: Sequence[float | None]) -> np.ndarray:
    """Whole numbers of frames [P], one at least, for usual durations [P] in frames, spoken at `rates`, or for `fixed`
    seconds. Errors of rounding do not add up: each unit ends at the frame that is nearest to its end."""
    wanted = [
        length / rate if seconds is None else seconds * RATE / FRAME
        for length, rate, seconds in zip(usual.tolist(), rates, fixed, strict=True)
    ]
    ends = np.rint(np.cumsum(wanted)).astype(np.int64)
    return np.maximum(np.diff(ends, prepend=0), 1)


def noise_seed(seed: int, number: int) -> int:
    """The seed of the codec's noise for sentence `number`."""
    return (seed * 1_000_003 + number) % (1 << 63)


def marks_of(planned: Planned, offset: float = 0.0) -> tuple[Mark, ...]:
    """The times of a sentence's words, from its spans; `offset` in seconds is where the sentence begins. A word's time
    leaves out the blanks and punctuation behind it."""
    spans, sentence = planned.spans, planned.sentence
    if spans is None:
        return ()
    ends = np.cumsum(spans.frames) * FRAME / RATE + offset
    starts = ends - spans.frames * FRAME / RATE
    found: dict[int, tuple[float, float]] = {}
    for i, unit in enumerate(sentence.units, 1):
        if unit.symbol not in NOT_SPOKEN:
            first = found.get(unit.word, (float(starts[i]), 0.0))[0]
            found[unit.word] = first, float(ends[i])
    words = [sentence.words[index] for index in found]
    return tuple(Mark(word.text, word.start, word.end, *times) for word, times in zip(words, found.values()))


def joined(parts: Iterable[Speech], rate: int) -> Speech:
    """The speech of several sentences as one."""
    found = list(parts)
    audio = np.concatenate([part.audio for part in found]) if found else np.zeros(0, dtype=np.float32)
    marks = tuple(mark for part in found for mark in part.marks)
    skipped = tuple(dict.fromkeys(word for part in found for word in part.skipped))
    return Speech(audio, rate, marks, sum_traces(part.trace for part in found), skipped)
