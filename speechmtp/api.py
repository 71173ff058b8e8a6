"""The few names that Python users call: `load` gives a recogniser, `transcribe` uses the default one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from speechmtp.audio.features import Fbank
from speechmtp.audio.io import read_audio, resample
from speechmtp.bundle import Bundle, load_bundle
from speechmtp.decoding.loop import Limits, generate
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.adapter import CtcMerge
from speechmtp.types import Prompt, Result, Trace, stack_prompts

LONGEST_SECONDS = 120  # attention over the whole utterance: memory grows with the square of this
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class Heard:
    """One utterance ready for decoding, alone and unpadded: the same for every strategy and batch size."""

    prompt: Prompt
    labels: tuple[int, ...]  # greedy CTC labels
    audio_seconds: float
    seconds: float  # spent on features, encoder and prompt
    nothing: bool = False  # not one letter among the segments, as in silence


@dataclass
class Recogniser:
    """Speech to text with one model; immutable after loading, safe to share.

    >>> import speechmtp
    >>> recogniser = speechmtp.load("an4")
    >>> recogniser.transcribe(speechmtp.example("digits"))
    'FOUR TWO SEVEN NINE'
    """

    bundle: Bundle
    device: torch.device
    dtype: torch.dtype
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.bundle.to(self.device, self.dtype)
        self._fbank = Fbank(self.bundle.config.features)

    @property
    def rate(self) -> int:
        """Sampling rate in Hz that the model hears."""
        return self.bundle.config.features.sample_rate

    @property
    def heads(self) -> HeadSet | None:
        """The model's default head set, if it has one."""
        return next(iter(self.bundle.heads.values()), None)

    def heads_named(self, name: str = "") -> HeadSet:
        """A head set by name, the default one for the empty name; a ConfigError where there is none."""
        found = self.bundle.heads.get(name) if name else self.heads
        if found is None and not self.bundle.heads:
            raise ConfigError("heads: the model has no heads; give a head folder with --heads, or another strategy")
        if found is None:
            raise ConfigError(
                f"heads {name!r}: not among those loaded, {', '.join(self.bundle.heads)}; name it or give its folder "
                f"with --heads"
            )
        return found

    @torch.inference_mode()
    def hear(self, audio: np.ndarray, name: str = "audio") -> Heard:
        """Features, encoder and prompt of samples [N] (float32, at `rate` Hz); errors speak of `name`."""
        began = time.perf_counter()
        if audio.ndim != 1:
            raise DataError(f"{name}: samples of shape {audio.shape}, expected one channel [N]")
        if not np.isfinite(audio).all():
            raise DataError(f"{name}: has samples that are not finite numbers")
        if len(audio) > LONGEST_SECONDS * self.rate:
            raise DataError(
                f"{name}: {len(audio) / self.rate:.0f} s, at most {LONGEST_SECONDS} s are heard at a time; "
                f"cut it into parts"
            )
        frames, lengths = self._fbank(torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None], None)
        model = self.bundle.model
        if frames.shape[1] < model.encoder.stride:
            raise DataError(f"{name}: {len(audio) / self.rate:.3f} s are too short for the encoder")
        out = model.encode(frames.to(self.device, self.dtype), lengths.to(self.device))
        prompt = model.prompt(out)
        runs = torch.unique_consecutive(out.logits[0].argmax(-1))
        labels = tuple(int(i) for i in runs[runs != model.encoder.blank].tolist())
        nothing = isinstance(model.adapter, CtcMerge) and not self.bundle.tokenizer.decode(labels).strip()
        return Heard(prompt, labels, len(audio) / self.rate, time.perf_counter() - began, nothing)

    def decode(
        self, heard: Sequence[Heard], strategy: Strategy, references: Sequence[Sequence[int]] | None = None,
        record_gaps: bool = False,
    ) -> list[Result]:  # fmt: skip
        """Decode a batch; `seconds` of each result is the batch's decoder time."""
        silent = [h.nothing for h in heard]
        if any(silent):  # the prompt holds no letter, and a trunk that has always read some would make one up
            spoken = [i for i, nothing in enumerate(silent) if not nothing]
            known = [references[i] for i in spoken] if references else None
            rest = self.decode([heard[i] for i in spoken], strategy, known, record_gaps) if spoken else []
            seconds = rest[0].seconds if rest else 0.0
            found = dict(zip(spoken, rest))
            return [found.get(i, Result("", (), Trace(finished=True), seconds)) for i in range(len(heard))]
        began = time.perf_counter()
        eos = self.bundle.tokenizer.eos
        if strategy.drafter is None or strategy.rule is None:
            tokens: list[list[int]] = [list(h.labels) for h in heard]
            traces = [Trace(emitted=len(t), finished=True) for t in tokens]
        else:
            lists = {"ctc": [list(h.labels) for h in heard], "reference": [list(r) for r in references or ()]}
            heads = self.heads_named(strategy.heads) if strategy.drafter.heads else None
            strategy = strategy if heads is None else strategy.fitted(heads.depth)
            assert strategy.drafter is not None and strategy.rule is not None
            tokens, traces = generate(
                self.bundle.model.trunk, heads, stack_prompts([h.prompt for h in heard]), strategy.drafter,
                strategy.rule, eos, lists.get(strategy.drafter.source or ""), self.limits, record_gaps,
            )  # fmt: skip
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        decode = self.bundle.tokenizer.decode
        return [Result(decode(t), tuple(t), trace, seconds) for t, trace in zip(tokens, traces)]

    def transcribe(
        self, audio: str | Path | np.ndarray, rate: int | None = None, strategy: str | Strategy = "ctc"
    ) -> str:
        """The text of a file, or of samples [N] or [N, channels] (floats in [-1, 1], or integers) at `rate` Hz."""
        return self.recognise(audio, rate, strategy).text

    def recognise(
        self, audio: str | Path | np.ndarray, rate: int | None = None, strategy: str | Strategy = "ctc"
    ) -> Result:
        """Like `transcribe`, with tokens and trace."""
        if isinstance(audio, np.ndarray):
            if rate is None:
                raise ConfigError("transcribe: an array needs its rate in Hz; give rate=16000 or what it is")
            samples = mono(audio)
            samples = samples if rate == self.rate else resample(samples, rate, self.rate)
        else:
            samples, _ = read_audio(audio, self.rate)
        chosen = parse_strategy(strategy) if isinstance(strategy, str) else strategy
        return self.decode([self.hear(samples, "audio" if isinstance(audio, np.ndarray) else str(audio))], chosen)[0]


def mono(audio: np.ndarray) -> np.ndarray:
    """Float32 samples [N] of an array [N] or [N, channels]; integers are scaled by their type's range."""
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[1] > audio.shape[0]):
        raise DataError(f"audio: array of shape {audio.shape}, expected [N] or [N, channels]")
    if np.issubdtype(audio.dtype, np.integer):
        audio = audio / (np.iinfo(audio.dtype).max + 1.0)
    audio = audio.astype(np.float32)
    return audio.mean(1) if audio.ndim == 2 else audio


def load(
    model: str = "default", device: str = "cpu", dtype: str = "float32", heads: str | Path | Sequence[str | Path] = (),
    allow_stale_heads: bool = False,
) -> Recogniser:  # fmt: skip
    """A recogniser from a model folder or the name of an embedded model (`default`, `an4`).

    `heads` are names of the model's head sets or head folders, the first being the default; with none given the
    model has all of its own. Those of another trunk are an error unless `allow_stale_heads`.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    wanted = [heads] if isinstance(heads, (str, Path)) else heads
    bundle = load_bundle(model, allow_stale_heads, [str(item) for item in wanted])
    return Recogniser(bundle, torch.device(device), DTYPES[dtype])


def transcribe(audio: str | Path | np.ndarray, rate: int | None = None, model: str = "default") -> str:
    """The text of a file, or of samples [N] at `rate` Hz, by an embedded model or a model folder."""
    return load(model).transcribe(audio, rate)


def example(name: str) -> Path:
    """The path of a spoken example inside the package; a wrong name lists those there are."""
    folder = Path(__file__).parent / "assets" / "examples"
    path = folder / f"{name}.flac"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.flac")))
        raise DataError(f"example {name!r}: not there; one of {names}")
    return path
