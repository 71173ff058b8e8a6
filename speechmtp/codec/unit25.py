"""`unit25`: 25 tokens a second that say how something is said; what is said comes from units and their spans.

Decoding goes by quanta of 5 tokens (16 frames, 200 ms). A quantum is decoded when its tokens and the next two are
known, always at the same shapes, and decoding at once is a loop over the same quanta. So the samples do not depend on
how the tokens came.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn

from speechmtp.codec import signal
from speechmtp.codec.contract import RATE, Spans
from speechmtp.codec.curves import measure
from speechmtp.codec.digits import DigitEncoder, codes_of
from speechmtp.codec.levels import FRAMES_A_TOKEN, LevelConfig, token_curves
from speechmtp.codec.network import FrameDecoder, NetworkConfig, UnitEncoder, UnitView, sentence_view, word_view
from speechmtp.config import Range, check_fields
from speechmtp.errors import ConfigError, DataError

QUANTUM = 16  # frames
TOKENS = 5  # in a quantum
AHEAD = 2  # tokens
FRAME_AT = 0.25  # how far into a frame its curves are read
_CURVE_SCALE = 5.0  # log F0 and log energy are divided by this for the network


@dataclass(frozen=True)
class Unit25Config:
    """Options of the codec. `ahead` is the right context in frames of 12.5 ms. With `text_context: word` a unit's
    features depend on nothing after the next word, else on the whole sentence."""

    kind: Literal["unit25"] = "unit25"
    levels: LevelConfig = field(default_factory=LevelConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    ahead: Annotated[int, Range(3, 8)] = 6
    text_context: Literal["word", "sentence"] = "word"

    def __post_init__(self) -> None:
        check_fields(self, "codec")
        if len(self.levels.digits) != self.network.digits:
            raise ConfigError(
                f"codec: network.digits {self.network.digits}, expected {len(self.levels.digits)}, as levels.digits has"
            )


@dataclass
class Stream:
    """The state of one utterance: what is known of it, and what the next quantum needs of the last."""

    spans: Spans
    seed: int
    features: Tensor  # [P, C] of the units
    units: Tensor  # [F + more] the unit of every frame
    left: list[Tensor]  # of the decoder's convolutions
    tokens: list[int] = field(default_factory=list)
    quantum: int = 0
    phase: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    source: Tensor = field(default_factory=lambda: torch.zeros(signal.DELAY))  # pulses that the next quantum reads too
    begun: Tensor = field(default_factory=lambda: torch.zeros(signal.OVERLAP - 1, signal.HOP))  # blocks to complete
    flushed: bool = False


class Unit25Codec(nn.Module):
    """The codec: networks with their weights, and the tables of levels."""

    rate = RATE
    first: Tensor  # see `_places`
    weight: Tensor
    log_f0: Tensor  # of every level
    log_energy: Tensor

    def __init__(self, config: Unit25Config) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = UnitEncoder(config.network), FrameDecoder(config.network)
        self.digits = DigitEncoder(config.levels.digits) if config.levels.digits else None
        first, weight = _places(QUANTUM + config.ahead)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        log_f0 = np.log(np.maximum(config.levels.f0_table, 1.0))
        self.register_buffer("log_f0", torch.from_numpy(log_f0).float(), persistent=False)
        self.register_buffer("log_energy", torch.from_numpy(config.levels.read_table).float(), persistent=False)

    @property
    def size(self) -> int:
        """The number of token ids."""
        return self.config.levels.size

    @property
    def silent(self) -> tuple[int, ...]:
        """The ids of silence: unvoiced, and of less than 0 nats."""
        f0, energy = self.levels(range(self.size))
        quiet = (f0 == 0) & (self.config.levels.energy_table[energy] < 0)
        return tuple(np.flatnonzero(quiet).tolist())

    def token(self, f0_level: int, energy_level: int) -> int:
        """The id of a token with these levels, and the middle of learned digits."""
        digits = [f0_level, energy_level, *(size // 2 for size in self.config.levels.digits)]
        return int(self.config.levels.join([np.array(digit) for digit in digits]))

    def levels(self, tokens: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Levels of F0 and of energy of tokens, each int64 [T]."""
        f0, energy, *_ = self.config.levels.split(tokens)
        return f0, energy

    def from_curves(
        self, f0: np.ndarray, f0_rate: float, energy: np.ndarray, energy_rate: float, spans: Spans
    ) -> np.ndarray:
        """Tokens [T], int64, from F0 in Hz (0: unvoiced) and log energy, whose value i is that at i / rate seconds. All
        learned digits are in their middle."""
        hertz, loudness = token_curves(f0, f0_rate, energy, energy_rate, spans.tokens)
        table = self.config.levels
        first = [table.quantise_f0(hertz), table.quantise_energy(loudness)]
        return table.join([*first, *(np.full_like(first[0], size // 2) for size in table.digits)])

    def encode(self, samples: np.ndarray, spans: Spans) -> np.ndarray:
        """Tokens [T], int64, of 24 kHz samples [N] that last as long as the spans. DataError for another length, and if
        librosa is not installed."""
        if samples.shape != (spans.samples,):
            raise DataError(
                f"codec: {list(samples.shape)} samples, expected [{spans.samples}], as many as the frames of the spans "
                "have at 24 kHz; resample the audio or check the spans"
            )
        curves = measure(samples)
        tokens = self.from_curves(curves.f0, curves.f0_rate, curves.energy, curves.energy_rate, spans)
        if self.digits is None:
            return tokens
        with torch.inference_mode():
            _, found = self.digits(torch.from_numpy(samples.astype(np.float32))[None])
        table = self.config.levels
        return table.join([*table.split(tokens)[:2], *found[0].T.numpy()])

    def decode(self, tokens: Sequence[int], spans: Spans | None = None, seed: int = 0) -> np.ndarray:
        """Samples [N], float32 at 24 kHz, of all tokens of an utterance: 300 a frame. DataError without spans, for
        another number of tokens than theirs, and for ids that the codec does not have."""
        if spans is None:
            raise DataError("codec: no spans, unit25 needs what is said and when; give units with durations")
        state = self.stream(spans, seed)
        return np.concatenate([self.step(tokens, state), self.flush(state)])

    @torch.inference_mode()
    def stream(self, spans: Spans, seed: int = 0) -> Stream:
        """The state before the first token. DataError for unit ids that the codec does not have."""
        if int(spans.ids.max()) >= self.config.network.units:
            raise DataError(
                f"codec: unit {int(spans.ids.max())}, expected ids below {self.config.network.units}; "
                "give units of this codec's alphabet"
            )
        units = torch.from_numpy(np.repeat(np.arange(len(spans.ids)), spans.frames))
        units = torch.cat([units, units[-1:].expand(QUANTUM + self.config.ahead)])
        features = self.encoder(self.view(spans))[0]
        return Stream(spans, seed, features, units, self.decoder.start())

    def view(self, spans: Spans) -> UnitView:
        """What units see of each other in this codec."""
        ids, words = spans.ids.tolist(), spans.words.tolist()
        return word_view(ids, words) if self.config.text_context == "word" else sentence_view(ids)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], state: Stream) -> np.ndarray:
        """The samples [N] that further tokens complete, maybe none. DataError for more tokens than the spans have, and
        for ids that the codec does not have."""
        self.config.levels.split(tokens)
        state.tokens += [int(token) for token in tokens]
        have, expected = len(state.tokens), state.spans.tokens
        if have > expected or state.flushed:
            raise DataError(f"codec: {have} tokens, expected {expected}, as the spans last; give tokens of these spans")
        blocks = []
        while state.quantum * QUANTUM < state.spans.total:
            if have < min(expected, (state.quantum + 1) * TOKENS + AHEAD):
                break
            blocks.append(self._quantum(state))
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)

    @torch.inference_mode()
    def flush(self, state: Stream) -> np.ndarray:
        """The last samples [N]. DataError if tokens are missing."""
        if len(state.tokens) < state.spans.tokens:
            raise DataError(
                f"codec: {len(state.tokens)} tokens, expected {state.spans.tokens}, as the spans last; give them all"
            )
        if state.flushed:
            return np.zeros(0, np.float32)
        state.flushed = True
        return _kept(state.begun, state.quantum * QUANTUM, state.spans.total)

    def _quantum(self, state: Stream) -> np.ndarray:
        """Decode the next quantum of a stream."""
        first, frames = state.quantum * QUANTUM, state.spans.total
        window = QUANTUM + self.config.ahead
        hertz, curves = self.curves(self._around(state))
        units = state.features[state.units[first : first + window]]
        mask = (torch.arange(first, first + window) < frames).float()[None, None, :, None]
        features = torch.cat([units, curves], 1)[None, None]
        parts, state.left = self.decoder(features, mask, state.left, self.config.ahead)
        source = self._source(state, hertz)
        spectrum = signal.spectra(parts[0, 0], source, signal.gaussian(state.seed, state.quantum, QUANTUM))
        blocks, state.begun = signal.overlap_add(spectrum * mask[0, 0, :QUANTUM], state.begun)
        state.quantum += 1
        return _kept(blocks, first, frames)

    def _around(self, state: Stream) -> Tensor:
        """The tokens [8] around the next quantum; at both ends of the utterance the outermost is repeated."""
        at, last = state.quantum * TOKENS - 1, state.spans.tokens - 1
        return torch.tensor([state.tokens[min(max(i, 0), last)] for i in range(at, at + TOKENS + AHEAD + 1)])

    def curves(self, tokens: Tensor, codes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """F0 in Hz [..., W] (0: unvoiced) and the features of curves [..., W, C] of the frames of windows, from the
        tokens [..., 8] around them: the one before a quantum, those of it, and the two after.

        Curves are read on a line between the middles of tokens, F0 only where both are voiced; a frame is voiced if the
        token nearest to it is. In training learned digits are given as `codes` [..., 8, D].
        """
        digits = self._digits(tokens)
        f0, energy = self.log_f0[digits[0]], self.log_energy[digits[1]]
        voiced = digits[0] > 0
        first, second, weight = self.first, self.first + 1, self.weight
        both = voiced[..., first] & voiced[..., second]
        one = torch.where(voiced[..., first], f0[..., first], f0[..., second])
        line = torch.lerp(f0[..., first], f0[..., second], weight)
        sounding = torch.where(weight <= 0.5, voiced[..., first], voiced[..., second])
        hertz = torch.where(both, line, one).exp() * sounding
        loud = torch.lerp(energy[..., first], energy[..., second], weight)
        features = [torch.log1p(hertz) / _CURVE_SCALE, loud / _CURVE_SCALE]
        sizes = self.config.levels.digits
        values = [codes_of(*one) for one in zip(digits[2:], sizes)] if codes is None else codes.unbind(-1)
        for value in values:
            features.append(torch.lerp(value[..., first], value[..., second], weight))
        return hertz, torch.stack(features, -1)

    def _digits(self, tokens: Tensor) -> list[Tensor]:
        """As `LevelConfig.split`, for ids that are known to be in range."""
        values = []
        for size in self.config.levels.sizes:
            values.append(tokens % size)
            tokens = tokens // size
        return values

    def _source(self, state: Stream, hertz: Tensor) -> Tensor:
        """Spectra [16, 601] of the pulses of the next quantum, from F0 of its window."""
        if state.quantum == 0:
            before = signal.to_samples(torch.cat([hertz[:1], hertz[:2]]))
            train, state.phase = signal.pulse_train(before, state.phase)
            state.source = torch.cat([state.source, train])
        train, state.phase = signal.pulse_train(signal.to_samples(hertz[: QUANTUM + 2]), state.phase)
        source = torch.cat([state.source, train])
        state.source = source[len(train) :]
        return signal.analyse(source)


def _places(frames: int) -> tuple[Tensor, Tensor]:
    """For every frame of a window, the earlier of the two tokens of the eight around that it lies between, and how far
    it is from it to the later, 0 to 1. Behind the last token its values are held."""
    at = (np.arange(frames) + FRAME_AT) / FRAMES_A_TOKEN - 0.5 + 1
    at = np.minimum(at, TOKENS + AHEAD)
    first = np.minimum(np.floor(at), TOKENS + AHEAD - 1)
    return torch.from_numpy(first.astype(np.int64)), torch.from_numpy((at - first).astype(np.float32))


def _kept(blocks: Tensor, first: int, frames: int) -> np.ndarray:
    """The samples [N] of overlapped blocks, of which the first lies two frames before frame `first`, in an utterance of
    so many frames."""
    first -= signal.OVERLAP // 2
    inside = first >= 2 and first + len(blocks) + 2 <= frames
    samples = blocks / (signal.FULL if inside else signal.level(first, len(blocks), frames))
    return samples[max(0, -first) : max(0, frames - first)].flatten().clamp(-1, 1).numpy()
