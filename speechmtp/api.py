"""The few names that Python users call: `load` gives a recogniser, `transcribe` uses the default one."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from speechmtp.audio.cut import cut_points
from speechmtp.audio.features import Fbank
from speechmtp.audio.io import read_audio, resample
from speechmtp.bundle import Bundle, BundleConfig, Drafts, load_bundle, load_draft_model
from speechmtp.decoding.drafters.model import DraftPrompt
from speechmtp.decoding.flags import flags_of
from speechmtp.decoding.loop import Drawing, Limits
from speechmtp.decoding.processors import SamplingConfig
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.adapter import CtcMerge
from speechmtp.models.ctc_labels import ctc_labels
from speechmtp.models.int8_linear import has_int8
from speechmtp.models.packed_linear import pack
from speechmtp.models.speech_lm import SpeechLM
from speechmtp.models.speech_seq2seq import RATE, SpeechSeq2Seq
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.types import CtcLabels, Request, Result, Source, SpelledText, TokenRules, Trace

Audio = str | Path | np.ndarray
LONGEST_SECONDS = 120  # attention over the whole utterance: memory grows with the square of this
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


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
    draft: SpeechLM | None = None
    int8_drafts: bool = False

    def __post_init__(self) -> None:
        self.bundle.to(self.device, self.dtype)
        for heads in self.bundle.heads.values() if self.int8_drafts else ():
            heads.draft_in_int8(self.bundle.model.trunk)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            for model in (self.bundle.model, self.draft, *self.bundle.heads.values()):
                if model is not None:
                    pack(model)
        trunk = None if self.draft is None else self.draft.to(device=self.device, dtype=self.dtype).trunk
        bundle, name = self.bundle, self.bundle.name or "MODEL"
        self.runner = Runner(bundle.model.trunk, bundle.heads, name, trunk, self.limits)
        self._speller = bundle.tokenizer.speller() if isinstance(bundle.tokenizer, HubTokenizer) else None
        self._fbank = Fbank(bundle.config.features) if isinstance(bundle.config, BundleConfig) else None

    @property
    def rate(self) -> int:
        """Sampling rate in Hz that the model hears."""
        if isinstance(self.bundle.config, BundleConfig):
            return self.bundle.config.features.sample_rate
        return RATE

    @property
    def longest(self) -> float:
        """The most seconds that are heard at a time."""
        model = self.bundle.model
        return model.longest if isinstance(model, SpeechSeq2Seq) else LONGEST_SECONDS

    @property
    def has_ctc(self) -> bool:
        """Whether the model has a CTC head."""
        return isinstance(self.bundle.model, SpeechLM) or self.bundle.ctc is not None

    @property
    def default_strategy(self) -> Strategy:
        """What decodes where nobody chose: what the model's folder names, or what its draft sources allow, where that
        needs one that was not loaded."""
        # A CTC head that spells is wrong more often than heads: its drafts cost more than they add.
        both = "verify" if isinstance(self.bundle.model, SpeechSeq2Seq) else "ctc-heads"
        drafts = {(True, True): both, (True, False): "ctc", (False, True): "verify", (False, False): "ar"}
        has = {"ctc": self.has_ctc, "heads": bool(self.bundle.heads), "model": self.draft is not None}
        strategy = parse_strategy(drafts[has["ctc"], has["heads"]])
        if self.bundle.config.strategy:
            named = parse_strategy(self.bundle.config.strategy)
            if all(has.get(need, False) for need in named.needs):
                try:
                    return self.runner.prepared(named)
                except ConfigError:  # other heads than those it speaks of
                    pass
        return self.runner.prepared(strategy)

    @property
    def heads(self) -> HeadSet | None:
        """The model's default head set, if it has one."""
        return next(iter(self.bundle.heads.values()), None)

    def heads_named(self, name: str = "") -> HeadSet:
        """A head set by name, the default one for the empty name; a ConfigError where there is none."""
        return self.runner.heads_named(name)

    @torch.inference_mode()
    def listen(self, audio: np.ndarray, name: str = "audio") -> Request:
        """Features, encoder and prompt of samples [N] (float32, at `rate` Hz), alone and unpadded: the same for every
        strategy and batch size. Errors speak of `name`."""
        began = time.perf_counter()
        if audio.ndim != 1:
            raise DataError(f"{name}: samples of shape {audio.shape}, expected one channel [N]")
        if not np.isfinite(audio).all():
            raise DataError(f"{name}: has samples that are not finite numbers")
        if len(audio) > self.longest * self.rate:
            raise DataError(
                f"{name}: {len(audio) / self.rate:.0f} s, at most {self.longest:.0f} s are heard at a time; "
                f"cut it into parts"
            )
        samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        listen = self._listen if isinstance(self.bundle.model, SpeechLM) else self._listen_pretrained
        request = listen(samples, f"{name}: {len(audio) / self.rate:.3f} s are too short for the encoder")
        return replace(request, audio_seconds=len(audio) / self.rate, listen_seconds=time.perf_counter() - began)

    def _listen(self, samples: torch.Tensor, too_short: str) -> Request:
        _, model, tokenizer = self.bundle.speech_lm
        assert self._fbank is not None
        frames, lengths = self._fbank(samples[None], None)
        if frames.shape[1] < model.encoder.stride:
            raise DataError(too_short)
        out = model.encode(frames.to(self.device, self.dtype), lengths.to(self.device))
        prompt = model.prompt(out)
        ctc = ctc_labels(out.logits[0], model.encoder.blank)
        sources: tuple[Source, ...] = (ctc,)
        if self.draft is not None:
            sources = (ctc, DraftPrompt(self.draft.trunk, self.draft.prompt(out)))
        # A prompt without a letter: a trunk that has always read some would make one up.
        empty = isinstance(model.adapter, CtcMerge) and not tokenizer.decode(ctc.labels).strip()
        limit = self.limits.of(int(prompt.lengths[0]))
        return Request(prompt, TokenRules((tokenizer.eos,)), limit, sources=sources, empty=empty)

    def _listen_pretrained(self, samples: torch.Tensor, too_short: str) -> Request:
        model = self.bundle.model
        assert isinstance(model, SpeechSeq2Seq)
        if len(samples) < model.shortest:
            raise DataError(too_short)
        memory = model.memory(samples)
        sources: tuple[Source, ...] = ()
        if self.bundle.ctc is not None and self._speller is not None:
            sources = (SpelledText(self.bundle.ctc.spell(memory), self._speller),)
        rules = TokenRules((model.law.eos,), model.law.suppressed, model.law.opening_suppressed)
        return Request(model.prompt(memory), rules, model.limit(len(samples) / self.rate), sources=sources)

    def decode(
        self, requests: Sequence[Request], strategy: Strategy | Sequence[Strategy], record_gaps: bool = False,
        sampling: SamplingConfig | None = None, overlap: bool = False,
    ) -> list[Result]:  # fmt: skip
        """Decode a batch, all rows by one strategy or each by its own; `seconds` of each result is the batch's decoder
        time. Drawn tokens are those of each request's `noise_key`, whatever the batch."""
        each = [strategy] * len(requests) if isinstance(strategy, Strategy) else list(strategy)
        spoken = [i for i, request in enumerate(requests) if not request.empty]
        began = time.perf_counter()
        found: dict[int, tuple[list[int], Trace]] = {}
        for i in spoken:
            if each[i].drafter is None:
                labels, eos = self.labels(requests[i]), requests[i].rules.eos[0]
                flags = flags_of([*labels, eos], eos)
                found[i] = labels, Trace(emitted=len(labels), finished=True, flags=flags)
        rows = [i for i in spoken if i not in found]
        if rows:
            drawing = Drawing.of(sampling or SamplingConfig(), [requests[i].noise_key for i in rows])
            done = self.runner.run(
                [requests[i] for i in rows], [each[i] for i in rows], drawing, record_gaps, overlap
            )  # fmt: skip
            found |= dict(zip(rows, zip(*done)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        nothing: tuple[list[int], Trace] = [], Trace(finished=True, flags=("empty",))
        text = self.bundle.tokenizer.decode
        outputs = [found.get(i, nothing) for i in range(len(requests))]
        return [Result(text(tokens), tuple(tokens), trace, seconds) for tokens, trace in outputs]

    def labels(self, request: Request) -> list[int]:
        """What the CTC head says, as tokens; a ConfigError where there is none."""
        if (labels := request.source(CtcLabels)) is not None:
            return list(labels.labels)
        if (spelled := request.source(SpelledText)) is not None:
            return self.bundle.tokenizer.encode(spelled.text.text)
        raise ConfigError("ctc-only: needs a CTC head and the model has none; choose another strategy")

    def listen_parts(self, audio: np.ndarray, name: str = "audio", noise_key: int = 0) -> Iterator[Request]:
        """`listen` to a recording [N] of any length: beyond 25 s it is cut in its pauses, and each part heard apart.
        Noise keys of the parts are those from `noise_key` on."""
        for number, (start, end) in enumerate(cut_points(audio, self.rate)):
            yield replace(self.listen(audio[start:end], name), noise_key=noise_key + number)

    def decode_parts(
        self, recordings: Sequence[Sequence[Request]], strategy: Strategy, batch: int = BATCH,
        sampling: SamplingConfig | None = None, note: Note | None = None,
    ) -> list[Recording]:  # fmt: skip
        """Recordings heard in parts, all parts decoded in batches of like size; `note` is told after every batch how
        many more seconds are done."""
        return decode_recordings(
            recordings, lambda parts: self.decode(parts, strategy, sampling=sampling), batch, note
        )  # fmt: skip

    def transcribe(self, audio: Audio, rate: int | None = None, strategy: str | Strategy = "") -> str:
        """The text of a file, or of samples [N] or [N, channels] (floats in [-1, 1], or integers) at `rate` Hz, of any
        length; by the model's `default_strategy` where none is given."""
        return self.recognise(audio, rate, strategy).text

    def recognise(self, audio: Audio, rate: int | None = None, strategy: str | Strategy = "") -> Recording:
        """Like `transcribe`, with tokens and trace, and the parts that a long recording was cut into."""
        return next(self.recognise_many([audio], rate, strategy))

    def recognise_many(
        self, audios: Iterable[Audio], rate: int | None = None, strategy: str | Strategy = "", batch: int = BATCH
    ) -> Iterator[Recording]:
        """`recognise` of many in their order, `batch` parts of like length at a time; far faster than one by one. They
        are read as they are needed, some 256 parts ahead."""
        if isinstance(audios, (str, Path)):
            raise ConfigError(f"recognise_many: {audios}, expected a list of recordings; one goes to recognise")
        if batch < 1:
            raise ConfigError(f"recognise_many: batch={batch}, expected 1 or more")
        if isinstance(strategy, str):
            strategy = parse_strategy(strategy) if strategy else self.default_strategy
        for group in held((list(self.listen_parts(*self._read(audio, rate))) for audio in audios), len):
            yield from self.decode_parts(group, strategy, batch)

    def _read(self, audio: Audio, rate: int | None) -> tuple[np.ndarray, str]:
        """Samples at the model's rate, and what errors call them."""
        if isinstance(audio, (str, Path)):
            return read_audio(audio, self.rate)[0], str(audio)
        if not isinstance(audio, np.ndarray):
            raise DataError(f"audio: a {type(audio).__name__}, expected a path or a numpy array of samples")
        if rate is None:
            raise ConfigError("transcribe: an array needs its rate in Hz; give rate=16000 or what it is")
        samples = mono(audio)
        return samples if rate == self.rate else resample(samples, rate, self.rate), "audio"


def mono(audio: np.ndarray) -> np.ndarray:
    """Float32 samples [N] of an array [N] or [N, channels]; integers are scaled by their type's range."""
    if audio.ndim not in (1, 2) or (audio.ndim == 2 and audio.shape[1] > audio.shape[0]):
        raise DataError(f"audio: array of shape {audio.shape}, expected [N] or [N, channels]")
    if np.issubdtype(audio.dtype, np.integer):
        info = np.iinfo(audio.dtype)
        middle = 0 if info.min else (info.max + 1) // 2  # of unsigned samples, such as those of 8-bit WAV files
        audio = (audio.astype(np.float64) - middle) / ((info.max + 1.0) / (2 if middle else 1))
    audio = audio.astype(np.float32)
    return audio.mean(1) if audio.ndim == 2 else audio


def load(
    model: str = "default", device: str = "cpu", dtype: str = "float32", heads: str | Path | Sequence[str | Path] = (),
    allow_stale_heads: bool = False, draft_model: str | Path = "", ctc: str | Path = "", drafts: str = "",
) -> Recogniser:  # fmt: skip
    """A recogniser from a model folder or the name of an embedded model (`default`, `an4`).

    `heads` are names of the model's head sets or head folders, the first being the default; with none given the
    model has all of its own. Those of another trunk are an error unless `allow_stale_heads`. `draft_model` is the
    folder of a smaller model on the same encoder, for strategies that draft with one; `ctc` that of a CTC draft head
    (default: the model's own). `drafts` says how heads compute: `int8`, several times as fast on a CPU in float32, or
    `float32` (default: what the model's folder says, where it can).
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    wanted = [heads] if isinstance(heads, (str, Path)) else heads
    bundle = load_bundle(model, allow_stale_heads, [str(item) for item in wanted], str(ctc))
    draft = load_draft_model(str(draft_model), bundle) if draft_model else None
    if drafts not in ("", *get_args(Drafts)):
        raise ConfigError(f"--drafts {drafts}: expected one of {', '.join(get_args(Drafts))}")
    check_device(device)
    can = torch.device(device).type == "cpu" and dtype == "float32" and has_int8()
    if drafts == "int8" and not can:
        found = f"{device} and {dtype}" if has_int8() else "a PyTorch without 8-bit kernels"
        raise ConfigError(f"--drafts int8: needs a CPU and float32, found {found}; leave it out")
    int8 = (drafts or bundle.config.drafts) == "int8" and can
    return Recogniser(bundle, torch.device(device), DTYPES[dtype], draft=draft, int8_drafts=int8)


def check_device(name: str) -> None:
    """ConfigError for a device that this machine does not have."""
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error


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
