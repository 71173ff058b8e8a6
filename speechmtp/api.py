"""The few names that Python users call: `load` gives a recogniser, `transcribe` uses the default one."""

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch

from speechmtp.audio.cut import LONGEST, SHORTEST, cut_points
from speechmtp.audio.inputs import Audio, input_name
from speechmtp.bundle import Bundle, Drafts, load_bundle, load_draft_model
from speechmtp.decoding.engine import Limits, Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import Drawing, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.decoding.traces import flags_of
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.kernels.cpu.int8_linear import has_int8
from speechmtp.kernels.cpu.packed_linear import pack
from speechmtp.listening import AudioSource, OnError, listen_each, sources_of
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.progress import AudioProgress, Told
from speechmtp.transcripts import BATCH, Transcript, decode_each
from speechmtp.types import CtcCharacters, CtcLabels, Request, Result, Trace

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(repr=False)
class Recogniser:
    """Speech to text with one model; immutable after loading, safe to share.

    >>> import speechmtp
    >>> recogniser = speechmtp.load("an4")
    >>> print(recogniser.transcribe(speechmtp.example("digits")))
    FOUR TWO SEVEN NINE
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
        self._spelling = None if bundle.ctc is None else bundle.model.spelling()

    def __repr__(self) -> str:
        """The model's name, where it is, how it computes, and its head sets."""
        heads = f", heads {', '.join(self.bundle.heads)}" if self.bundle.heads else ""
        dtype = dtype_name(self.dtype)
        name = self.bundle.name or "unnamed"
        return f"Recogniser({name} on {self.device}, {dtype}{heads})"

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
        if ctc is not None and self._spelling is not None and request.prompt.memory is not None:
            request = request.knowing(CtcCharacters(ctc.spell(request.prompt.memory), self._spelling))
        limit = self.limits.of(int(request.prompt.lengths[0])) if request.limit is None else request.limit
        seconds = time.perf_counter() - began
        return replace(request, limit=limit, audio_seconds=len(audio) / self.rate, listen_seconds=seconds)

    def decode(
        self, requests: Sequence[Request], strategy: Strategy | Sequence[Strategy],
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode a batch, all rows by one strategy or each by its own; `seconds` of each result is the batch's decoder
        time. Drawn tokens are those of each request's `noise_key`, whatever the batch. `recorded` says what traces keep
        besides counts."""
        each = [strategy] * len(requests) if isinstance(strategy, Strategy) else list(strategy)
        if len(each) != len(requests):
            raise ConfigError(f"decode: {len(each)} strategies for {len(requests)} requests; give one, or one for each")
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
            drawing = Drawing.of(sampling or SamplingConfig())
            done = self.runner.run([requests[i] for i in rows], [each[i] for i in rows], drawing, recorded)
            found |= dict(zip(rows, zip(*done)))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        nothing: tuple[list[int], Trace] = [], Trace(finished=True, flags=("empty",))
        outputs = [(one, *found.get(i, nothing)) for i, one in enumerate(requests)]
        text, audio = self.bundle.model.decode, self._audio
        return [Result(text(said), tuple(said), trace, seconds, audio(one, said)) for one, said, trace in outputs]

    def _audio(self, request: Request, tokens: Sequence[int]) -> tuple[np.ndarray, int] | None:
        """Samples and rate of speech tokens, where there is a codec."""
        codec = self.bundle.codec
        if codec is None:
            return None
        return codec.decode([token for token in tokens if token not in request.rules.eos]), codec.rate

    def labels(self, request: Request) -> list[int]:
        """What the CTC head says, as tokens; a ConfigError where there is none."""
        if (labels := request.source(CtcLabels)) is not None:
            return list(labels.labels)
        if (spelled := request.source(CtcCharacters)) is not None:
            return self.bundle.model.encode(spelled.text.text)
        raise ConfigError("ctc-only: needs a CTC head and the model has none; choose another strategy")

    def listen_parts(
        self, audio: np.ndarray, name: str = "audio", noise_key: int = 0, language: str = "", task: str = ""
    ) -> Iterator[Request]:
        """`listen` to a recording [N] of any length: beyond 25 s, or what the model hears at a time if that is less, it
        is cut in its pauses, and each part heard apart. Noise keys of the parts are those from `noise_key` on."""
        longest = min(LONGEST, self.longest)
        spans = cut_points(audio, self.rate, SHORTEST * (longest / LONGEST), longest)
        for number, (start, end) in enumerate(spans):
            part = self.listen(audio[start:end], name, language, task)
            yield replace(part, noise_key=noise_key + number)

    def transcribe(
        self, audio: Audio, rate: float | None = None, strategy: str | Strategy | None = None, *,
        language: str = "", task: str = "", progress: Told | bool | None = None, logprobs: bool = False,
        sampling: SamplingConfig | None = None,
    ) -> Transcript:  # fmt: skip
        """What is said in one recording of any length; `print` shows its text.

        `audio` is a path, an open binary file, the bytes of a file, samples at `rate` Hz, a pair of both, or a dict of
        them as datasets have it (`audio/inputs.py` has every kind). `strategy` is named as on the command line, or
        comes from `parse_strategy`; by the model's `default_strategy` where none is given. The rest as in
        `transcribe_many`. DataError for audio that cannot be read or heard, ConfigError for samples without a rate, and
        for a rate that is not the file's.
        """
        found = self.transcribe_many(
            [audio], rate, strategy, progress=progress, language=language, task=task, logprobs=logprobs,
            sampling=sampling, names=[input_name(audio)],
        )  # fmt: skip
        [one] = found
        return one

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int = ..., on_error: Literal["raise"] = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ...,
    ) -> Iterator[Transcript]: ...  # fmt: skip

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int = ..., on_error: OnError = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ...,
    ) -> Iterator[Transcript | DataError]: ...  # fmt: skip

    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = None, strategy: str | Strategy | None = None,
        batch: int = BATCH, on_error: OnError = "raise", progress: Told | bool | None = None, *,
        language: str = "", task: str = "", logprobs: bool = False, sampling: SamplingConfig | None = None,
        noise_keys: Sequence[int] | None = None, names: Sequence[str] | None = None,
    ) -> Iterator[Transcript | DataError]:  # fmt: skip
        """Transcripts of many recordings in their order, `batch` parts of like length at a time: far faster than one by
        one.

        `sources` are of every kind that `transcribe` takes, or functions that give one when its turn comes; they are
        read as they are needed, some 256 parts ahead. With `on_error="return"` the DataError of a recording that cannot
        be read or heard stands in its place; "raise" raises it there, behind the transcripts before it. `progress` is
        told the seconds done and those of all recordings, None until all are read (what is heard is half done); True
        shows a bar in a terminal. `language` and `task` are those of `listen`. `logprobs` asks for the segments'
        `mean_logprob`, which costs some time. Where `sampling` draws tokens, `noise_keys` name the noise of each
        recording (its parts have the keys from there on; default: the parts are counted). `names` are what errors call
        the recordings.
        """
        if batch < 1:
            raise ConfigError(f"transcribe_many: batch={batch}, expected 1 or more")
        if on_error not in get_args(OnError):
            raise ConfigError(f"transcribe_many: on_error={on_error!r}, expected one of {', '.join(get_args(OnError))}")
        named = parse_strategy(strategy) if isinstance(strategy, str) and strategy else strategy
        chosen, sources = named or self.default_strategy, sources_of(sources)

        def decode(parts: list[Request]) -> list[Result]:
            return self.decode(parts, chosen, sampling, Recorded(logprobs=logprobs))

        def found() -> Iterator[Transcript | DataError]:
            count = len(sources) if isinstance(sources, Sized) else None
            with AudioProgress(progress, "transcribing", count) as bar:
                raises = on_error == "raise"
                listen = partial(self.listen_parts, language=language, task=task)
                heard = listen_each(sources, rate, self.rate, listen, bar, names, noise_keys, raises)
                for one in decode_each(heard, decode, batch, bar.add):
                    if raises and isinstance(one, DataError):
                        raise one
                    yield one

        return found()


def load(
    model: str | Path = "default", device: str | torch.device = "auto", dtype: str | torch.dtype = "float32",
    heads: str | Path | Sequence[str | Path] = (), allow_stale_heads: bool = False, draft_model: str | Path = "",
    ctc: str | Path = "", drafts: str = "",
) -> Recogniser:  # fmt: skip
    """A recogniser of one's own from a model folder or the name of an embedded model (`default`, `an4`).

    `device` is `auto` (a GPU where CUDA works, else the CPU) or one of PyTorch; `repr` tells which. `heads` are
    names of the model's head sets or head folders, the first being the default; with none given the model has all of
    its own. Those of another trunk are an error unless `allow_stale_heads`. `draft_model` is the
    folder of a smaller model on the same encoder, for strategies that draft with one; `ctc` that of a CTC draft head
    (default: the model's own). `drafts` says how heads compute: `int8`, several times as fast on a CPU in float32, or
    `float32` (default: what the model's folder says, where it can).
    """
    dtype = dtype_name(dtype)
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    wanted = [heads] if isinstance(heads, (str, Path)) else heads
    bundle = load_bundle(str(model), allow_stale_heads, [str(item) for item in wanted], str(ctc))
    draft = load_draft_model(str(draft_model), bundle) if draft_model else None
    if drafts not in ("", *get_args(Drafts)):
        raise ConfigError(f"--drafts {drafts}: expected one of {', '.join(get_args(Drafts))}")
    device = chosen_device(device)
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


def dtype_name(dtype: str | torch.dtype) -> str:
    """The name of a type of numbers, as `float32`."""
    return str(dtype).removeprefix("torch.")


def chosen_device(device: str | torch.device) -> str:
    """The name of a device, for `auto` `cuda` where that works, else `cpu`; ConfigError as `check_device`."""
    name = str(device)
    if name == "auto":
        return "cuda" if has_cuda() else "cpu"
    check_device(name)
    return name


def has_cuda() -> bool:
    """Whether CUDA works here."""
    try:
        check_device("cuda")
    except ConfigError:
        return False
    return True


def example(name: str) -> Path:
    """The path of a spoken example inside the package; a wrong name lists those there are."""
    folder = Path(__file__).parent / "assets" / "examples"
    path = folder / f"{name}.flac"
    if not path.exists():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.flac")))
        raise DataError(f"example {name!r}: not there; one of {names}")
    return path
