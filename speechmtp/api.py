"""The few names that Python users call: `load` gives a recogniser, `transcribe` uses the default one."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from speechmtp.audio.cut import cut_points
from speechmtp.audio.io import read_audio, resample
from speechmtp.bundle import Bundle, Drafts, load_bundle, load_draft_model
from speechmtp.decoding.engine import Limits, Recorded
from speechmtp.decoding.flags import flags_of
from speechmtp.decoding.plan import Drawing
from speechmtp.decoding.processors import SamplingConfig
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.int8_linear import has_int8
from speechmtp.models.packed_linear import pack
from speechmtp.recordings import BATCH, Note, Recording, decode_recordings, held
from speechmtp.types import CtcLabels, Request, Result, SpelledText, Trace

Audio = str | Path | np.ndarray
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
    draft: SpeechModel | None = None
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
        self._speller = None if bundle.ctc is None else bundle.model.speller()

    @property
    def rate(self) -> int:
        """Sampling rate in Hz that the model hears."""
        return self.bundle.model.rate

    @property
    def longest(self) -> float:
        """The most seconds that are heard at a time."""
        return self.bundle.model.longest

    @property
    def has_ctc(self) -> bool:
        """Whether the model has a CTC head."""
        return self.bundle.model.own_ctc or self.bundle.ctc is not None

    @property
    def default_strategy(self) -> Strategy:
        """What decodes where nobody chose: what the model's folder names, or what its draft sources allow, where that
        needs one that was not loaded."""
        # A CTC head that spells is wrong more often than heads: its drafts cost more than they add.
        both = "ctc-heads" if self.bundle.model.own_ctc else "verify"
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
    def listen(self, audio: np.ndarray, name: str = "audio", language: str = "", task: str = "") -> Request:
        """Features, encoder and prompt of samples [N] (float32, at `rate` Hz), alone and unpadded: the same for every
        strategy and batch size. Errors speak of `name`. `language` (code or English name) and `task` (`transcribe` or
        `translate`) are for multilingual models; empty: what the model's folder says."""
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
        model, ctc = self.bundle.model, self.bundle.ctc
        if len(audio) < model.shortest:
            raise DataError(f"{name}: {len(audio) / self.rate:.3f} s are too short for the encoder")
        request = model.listen(samples, language, task, self.draft)
        if ctc is not None and self._speller is not None and request.prompt.memory is not None:
            request = request.knowing(SpelledText(ctc.spell(request.prompt.memory), self._speller))
        limit = self.limits.of(int(request.prompt.lengths[0])) if request.limit is None else request.limit
        seconds = time.perf_counter() - began
        return replace(request, limit=limit, audio_seconds=len(audio) / self.rate, listen_seconds=seconds)

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
                labels, ends = self.labels(requests[i]), requests[i].rules.eos
                flags = flags_of([*labels, *ends[:1]], ends)
                found[i] = labels, Trace(emitted=len(labels), finished=True, flags=flags)
        rows = [i for i in spoken if i not in found]
        if rows:
            recorded, drawing = Recorded(gaps=record_gaps, overlap=overlap), Drawing.of(sampling or SamplingConfig())
            done = self.runner.run([requests[i] for i in rows], [each[i] for i in rows], drawing, recorded)
            found |= dict(zip(rows, zip(*done)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        nothing: tuple[list[int], Trace] = [], Trace(finished=True, flags=("empty",))
        text = self.bundle.model.decode
        outputs = [found.get(i, nothing) for i in range(len(requests))]
        return [Result(text(tokens), tuple(tokens), trace, seconds) for tokens, trace in outputs]

    def labels(self, request: Request) -> list[int]:
        """What the CTC head says, as tokens; a ConfigError where there is none."""
        if (labels := request.source(CtcLabels)) is not None:
            return list(labels.labels)
        if (spelled := request.source(SpelledText)) is not None:
            return self.bundle.model.encode(spelled.text.text)
        raise ConfigError("ctc-only: needs a CTC head and the model has none; choose another strategy")

    def listen_parts(
        self, audio: np.ndarray, name: str = "audio", noise_key: int = 0, language: str = "", task: str = ""
    ) -> Iterator[Request]:
        """`listen` to a recording [N] of any length: beyond 25 s it is cut in its pauses, and each part heard apart.
        Noise keys of the parts are those from `noise_key` on."""
        for number, (start, end) in enumerate(cut_points(audio, self.rate)):
            part = self.listen(audio[start:end], name, language, task)
            yield replace(part, noise_key=noise_key + number)

    def decode_parts(
        self, recordings: Sequence[Sequence[Request]], strategy: Strategy, batch: int = BATCH,
        sampling: SamplingConfig | None = None, note: Note | None = None,
    ) -> list[Recording]:  # fmt: skip
        """Recordings heard in parts, all parts decoded in batches of like size; `note` is told after every batch how
        many more seconds are done."""
        return decode_recordings(
            recordings, lambda parts: self.decode(parts, strategy, sampling=sampling), batch, note
        )  # fmt: skip

    def transcribe(
        self, audio: Audio, rate: int | None = None, strategy: str | Strategy = "", language: str = "", task: str = ""
    ) -> str:
        """The text of a file, or of samples [N] or [N, channels] (floats in [-1, 1], or integers) at `rate` Hz, of any
        length; by the model's `default_strategy` where none is given. `language` and `task` as in `listen`."""
        return self.recognise(audio, rate, strategy, language, task).text

    def recognise(
        self, audio: Audio, rate: int | None = None, strategy: str | Strategy = "", language: str = "", task: str = ""
    ) -> Recording:
        """Like `transcribe`, with tokens and trace, and the parts that a long recording was cut into."""
        return next(self.recognise_many([audio], rate, strategy, language=language, task=task))

    def recognise_many(
        self, audios: Iterable[Audio], rate: int | None = None, strategy: str | Strategy = "", batch: int = BATCH,
        language: str = "", task: str = "",
    ) -> Iterator[Recording]:  # fmt: skip
        """`recognise` of many in their order, `batch` parts of like length at a time; far faster than one by one. They
        are read as they are needed, some 256 parts ahead."""
        if isinstance(audios, (str, Path)):
            raise ConfigError(f"recognise_many: {audios}, expected a list of recordings; one goes to recognise")
        if batch < 1:
            raise ConfigError(f"recognise_many: batch={batch}, expected 1 or more")
        if isinstance(strategy, str):
            strategy = parse_strategy(strategy) if strategy else self.default_strategy

        def parts(audio: Audio) -> list[Request]:
            return list(self.listen_parts(*self._read(audio, rate), language=language, task=task))

        for group in held(map(parts, audios), len):
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
