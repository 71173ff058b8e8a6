"""The main Python interface: `load` gives a `Recogniser`, which encodes, decodes and transcribes audio."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch

from speechmtp.audio.cut import LONGEST, SHORTEST, cut_points
from speechmtp.audio.inputs import Audio, input_name
from speechmtp.audio.levels import check_floats, inaudible
from speechmtp.batching import default_rows
from speechmtp.bundle import Bundle, Drafts, load_bundle, load_draft_model
from speechmtp.clock import clock
from speechmtp.cores import cores
from speechmtp.crew import Crew
from speechmtp.decoding.engine import Limits, Recorded
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.decoding.traces import flags_of
from speechmtp.devices import dtype_name, find_device, int8_problem, parse_dtype
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.native import use_native as draft_natively
from speechmtp.kernels.cpu.packed_linear import pack
from speechmtp.listening import AudioSource, OnError, listen_each, sources_of
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.bases.native import use_native
from speechmtp.models.character_ctc import CharacterCtcSource
from speechmtp.progress import AudioProgress, Told
from speechmtp.transcripts import Transcript, decode_each
from speechmtp.types import CtcCharacters, CtcLabels, CtcSource, Request, Result, Trace

if hasattr(os, "register_at_fork"):
    # A fork has none of the threads that computed for its parent, and would wait for them for ever.
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


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
        trunk = None if self.draft is None else self.draft.to(device=self.device, dtype=self.dtype).trunk
        self._use_kernels()  # before `pack`, so that no layer is timed that will not be called
        pack(self.bundle.model, self.draft, *self.bundle.heads.values())
        bundle, name = self.bundle, self.bundle.name or "MODEL"
        self.runner = Runner(bundle.model.trunk, bundle.heads, name, trunk, self.limits)
        self._spelling = None if bundle.ctc is None else bundle.model.spelling()

    def _use_kernels(self) -> None:
        """Let trunks and heads run natively where they can."""
        trunk = self.bundle.model.trunk
        for each in filter(None, (trunk, None if self.draft is None else self.draft.trunk)):
            use_native(each)
        for heads in self.bundle.heads.values():
            draft_natively(heads, trunk)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled recogniser, which has no packed weights."""
        self.__dict__.update(state)
        self._use_kernels()

    def __repr__(self) -> str:
        """The model's name, device, dtype and head sets."""
        heads = f", heads {', '.join(self.bundle.heads)}" if self.bundle.heads else ""
        dtype = dtype_name(self.dtype)
        name = self.bundle.name or "unnamed"
        return f"Recogniser({name} on {self.device}, {dtype}{heads})"

    @property
    def rate(self) -> int:
        """Sampling rate in Hz of the audio that the model takes."""
        return self.bundle.model.rate

    @property
    def longest(self) -> float:
        """The most seconds of audio that the model encodes at a time."""
        return self.bundle.model.longest

    @property
    def has_ctc(self) -> bool:
        """Whether the model has a CTC head, of its own or a CTC draft head."""
        return self.bundle.model.own_ctc or self.bundle.ctc is not None

    @property
    def default_strategy(self) -> Strategy:
        """The strategy used where none is given: the one that the model's `config.yaml` names, if all that it needs is
        loaded; otherwise one chosen by the draft sources that are loaded (CTC head, heads)."""
        # A character CTC draft head is wrong more often than heads: its drafts cost more time than they save.
        both = "ctc-heads" if self.bundle.model.own_ctc else "verify"
        drafts = {(True, True): both, (True, False): "ctc", (False, True): "verify", (False, False): "ar"}
        has = {"ctc": self.has_ctc, "heads": bool(self.bundle.heads), "model": self.draft is not None}
        strategy = parse_strategy(drafts[has["ctc"], has["heads"]])
        if self.bundle.config.strategy:
            named = parse_strategy(self.bundle.config.strategy)
            if all(has.get(need, False) for need in named.needs):
                try:
                    return self.runner.prepared(named)
                except ConfigError:  # the loaded heads do not fit its options
                    pass
        return self.runner.prepared(strategy)

    @property
    def heads(self) -> HeadSet | None:
        """The model's default head set, if it has one."""
        return next(iter(self.bundle.heads.values()), None)

    def heads_named(self, name: str = "") -> HeadSet:
        """The head set of this name; the default one for the empty name. ConfigError if there is none."""
        return self.runner.heads_named(name)

    @torch.inference_mode()
    def listen(self, audio: np.ndarray, name: str = "audio", language: str = "", task: str = "") -> Request:
        """Encode samples [N] (float32, at `rate` Hz) and build the decoder's prompt.

        The audio is encoded alone and without padding, so the request is the same for every strategy and batch size. A
        CTC draft head does not run here, but whenever a strategy reads it. Silence, 80 dB below full scale or lower, is
        not encoded, and its text is empty. `name` is what errors call the audio. `language` (code or English name) and
        `task` (`transcribe` or `translate`) are for multilingual models; where empty, the model's own configuration
        decides. DataError for samples that are not [N], not finite, far beyond 1, longer than `longest` seconds, or too
        short for the encoder.
        """
        began = time.perf_counter()
        if self.device.type == "cuda" and torch.cuda._is_in_bad_fork():
            raise ConfigError(
                f"{name}: {self} is in a forked process, and CUDA does not go along; load it there, or start the "
                f"process with 'spawn'"
            )
        if audio.ndim != 1:
            raise DataError(f"{name}: samples of shape {audio.shape}, expected one channel [N]")
        if not np.isfinite(audio).all():
            raise DataError(f"{name}: has samples that are not finite numbers")
        check_floats(name, audio)
        if len(audio) > self.longest * self.rate:
            raise DataError(
                f"{name}: {len(audio) / self.rate:.0f} s, at most {self.longest:.0f} s are heard at a time; "
                f"cut it into parts"
            )
        samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        model, ctc = self.bundle.model, self.bundle.ctc
        if len(audio) < model.shortest:
            raise DataError(f"{name}: {len(audio) / self.rate:.3f} s are too short for the encoder")
        silent = inaudible(samples.numpy())  # a model would invent a text
        request = model.silence(language, task) if silent else model.listen(samples, language, task, self.draft)
        if ctc is not None and self._spelling is not None and request.prompt.memory is not None:
            request = request.knowing(CharacterCtcSource(ctc, request.prompt.memory, self._spelling))
        limit = self.limits.of(int(request.prompt.lengths[0])) if request.limit is None else request.limit
        seconds = time.perf_counter() - began
        return replace(request, limit=limit, audio_seconds=len(audio) / self.rate, listen_seconds=seconds)

    def decode(
        self, requests: Sequence[Request], strategy: Strategy | Sequence[Strategy],
        sampling: SamplingConfig | None = None, recorded: Recorded | None = None,
    ) -> list[Result]:  # fmt: skip
        """Decode a batch of requests, all rows by one strategy or each by its own.

        `seconds` of each result is the decoder time of the whole batch. Sampled tokens depend on each request's
        `noise_key`, not on the batch. `recorded` selects what traces record besides counts. ConfigError where the
        numbers of strategies and requests differ.
        """
        each = [strategy] * len(requests) if isinstance(strategy, Strategy) else list(strategy)
        if len(each) != len(requests):
            raise ConfigError(f"decode: {len(each)} strategies for {len(requests)} requests; give one, or one for each")
        spoken = [i for i, request in enumerate(requests) if not request.empty]
        began = clock(self.device)
        found: dict[int, tuple[list[int], Trace]] = {}
        for i in spoken:
            if each[i].drafter is None:
                labels, ends = self.labels(requests[i]), requests[i].rules.eos
                flags = flags_of([*labels, *ends[:1]], ends)
                found[i] = labels, Trace(emitted=len(labels), finished=True, flags=flags)
        rows = [i for i in spoken if i not in found]
        if rows:
            row_sampling = RowSampling.of(sampling or SamplingConfig())
            done = self.runner.run([requests[i] for i in rows], [each[i] for i in rows], row_sampling, recorded)
            found |= dict(zip(rows, zip(*done)))
        seconds = clock(self.device) - began
        nothing: tuple[list[int], Trace] = [], Trace(finished=True, flags=("empty",))
        outputs = [(one, *found.get(i, nothing)) for i, one in enumerate(requests)]
        text, audio = self.bundle.model.decode, self._audio
        return [Result(text(ids), tuple(ids), trace, seconds, audio(one, ids)) for one, ids, trace in outputs]

    def _audio(self, request: Request, tokens: Sequence[int]) -> tuple[np.ndarray, int] | None:
        """Samples [N] and rate in Hz of speech tokens; None for a model without a codec."""
        codec = self.bundle.codec
        if codec is None:
            return None
        return codec.decode([token for token in tokens if token not in request.rules.eos]), codec.rate

    def labels(self, request: Request) -> list[int]:
        """Token ids of the CTC head's own transcript of a request; a ConfigError if the model has no CTC head."""
        source = request.source(CtcSource)
        said = None if source is None else source.read()
        if isinstance(said, CtcLabels):
            return list(said.labels)
        if isinstance(said, CtcCharacters):
            return self.bundle.model.encode(said.text.text)
        raise ConfigError("ctc-only: needs a CTC head and the model has none; choose another strategy")

    def spans(self, audio: np.ndarray) -> list[tuple[int, int]]:
        """Spans [start, end) of the parts in which a recording [N] is encoded: one, or several that are cut at its
        pauses where it is longer than 25 s, or than `longest` if that is less."""
        longest = min(LONGEST, self.longest)
        return cut_points(audio, self.rate, SHORTEST * (longest / LONGEST), longest)

    def listen_parts(
        self, audio: np.ndarray, name: str = "audio", noise_key: int = 0, language: str = "", task: str = ""
    ) -> Iterator[Request]:
        """Encode a recording [N] of any length as one or more requests, one for each of its `spans`. They have the
        noise keys `noise_key`, `noise_key` + 1, and so on."""
        for number, (start, end) in enumerate(self.spans(audio)):
            yield self._listen_part(audio[start:end], name, noise_key + number, language, task)

    def _listen_part(self, audio: np.ndarray, name: str, noise_key: int, language: str, task: str) -> Request:
        return replace(self.listen(audio, name, language, task), noise_key=noise_key)

    def transcribe(
        self, audio: Audio, rate: float | None = None, strategy: str | Strategy | None = None, *,
        language: str = "", task: str = "", progress: Told | bool | None = None, logprobs: bool = False,
        sampling: SamplingConfig | None = None, jobs: int | None = None,
    ) -> Transcript:  # fmt: skip
        """Transcribe one recording of any length; `print` shows its text.

        `audio` is a path, an open binary file, the bytes of a file, samples at `rate` Hz, a pair of samples and rate,
        or a dict as in Hugging Face datasets (see `audio/inputs.py` for all kinds). `strategy` is a string as on the
        command line or the result of `parse_strategy`; without it the model's `default_strategy` is used. The other
        arguments are those of `transcribe_many`. DataError for audio that cannot be read or encoded, ConfigError for
        samples without a rate and for a rate that differs from the file's.
        """
        found = self.transcribe_many(
            [audio], rate, strategy, progress=progress, language=language, task=task, logprobs=logprobs,
            sampling=sampling, names=[input_name(audio)], jobs=jobs,
        )  # fmt: skip
        [one] = found
        return one

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int | None = ..., on_error: Literal["raise"] = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ..., jobs: int | None = ...,
        threads: int = ...,
    ) -> Iterator[Transcript]: ...  # fmt: skip

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int | None = ..., on_error: OnError = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ..., jobs: int | None = ...,
        threads: int = ...,
    ) -> Iterator[Transcript | DataError]: ...  # fmt: skip

    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = None, strategy: str | Strategy | None = None,
        batch: int | None = None, on_error: OnError = "raise", progress: Told | bool | None = None, *,
        language: str = "", task: str = "", logprobs: bool = False, sampling: SamplingConfig | None = None,
        noise_keys: Sequence[int] | None = None, names: Sequence[str] | None = None, jobs: int | None = None,
        threads: int = 1,
    ) -> Iterator[Transcript | DataError]:  # fmt: skip
        """Transcribe many recordings in their order; `batch` parts of similar length are decoded together (default: 4
        on a CPU, 16 elsewhere), which is faster than one by one.

        `sources` are of every kind that `transcribe` takes, or functions that return one when called. They are read
        lazily, about 256 parts ahead. With `on_error="return"` the DataError of a recording that cannot be read or
        encoded is yielded in its place; with "raise" it is raised there, after the transcripts before it.

        `progress` is called with the seconds done and the seconds of all recordings (None until all are read); a part
        counts as half done once it is encoded. True shows a bar in a terminal. `language` and `task` are those of
        `listen`. `logprobs` computes the segments' `mean_logprob`, at some cost in time. Where `sampling` samples
        tokens, `noise_keys` give the noise key of each recording's first part (default: parts are numbered). `names`
        are what errors call the recordings.

        `jobs` worker threads encode and decode (default: as many as the process may use cores; on a GPU always one),
        each with `threads` arithmetic threads; one job is done in the caller's thread, with its own arithmetic threads.
        Sources are read, functions and `progress` called in the caller's thread.

        ConfigError for `batch`, `jobs` or `threads` below 1, an unknown `on_error`, and `sources` that are a single
        recording.
        """
        jobs = cores() if jobs is None else jobs
        batch = default_rows(self.device.type) if batch is None else batch
        for number, value in (("batch", batch), ("jobs", jobs), ("threads", threads)):
            if value < 1:
                raise ConfigError(f"transcribe_many: {number}={value}, expected 1 or more")
        if on_error not in get_args(OnError):
            raise ConfigError(f"transcribe_many: on_error={on_error!r}, expected one of {', '.join(get_args(OnError))}")
        named = parse_strategy(strategy) if isinstance(strategy, str) and strategy else strategy
        chosen, sources = named or self.default_strategy, sources_of(sources)

        def decode(parts: list[Request]) -> list[Result]:
            return self.decode(parts, chosen, sampling, Recorded(logprobs=logprobs))

        def found() -> Iterator[Transcript | DataError]:
            count = len(sources) if isinstance(sources, Sized) else None
            raises, on_cpu = on_error == "raise", self.device.type == "cpu"
            listen = partial(self._listen_part, language=language, task=task)
            with AudioProgress(progress, "transcribing", count) as bar, Crew(jobs if on_cpu else 1, threads) as crew:
                if chosen.length is not None:  # costs are measured while the other workers rest
                    list(crew.map(self.runner.bind, [self.runner.prepared(chosen)]))
                heard = listen_each(sources, rate, self.rate, self.spans, listen, bar, crew, names, noise_keys, raises)
                for one in decode_each(heard, decode, batch, crew, bar.add):
                    if raises and isinstance(one, DataError):
                        raise one
                    yield one

        return found()


def load(
    model: str | Path = "default", device: str | torch.device = "auto", dtype: str | torch.dtype = "float32",
    heads: str | Path | Sequence[str | Path] = (), allow_stale_heads: bool = False, draft_model: str | Path = "",
    ctc: str | Path = "", drafts: str = "",
) -> Recogniser:  # fmt: skip
    """Load a recogniser from a model folder, a hub name, or the name of an embedded model (`default`, `an4`).

    `device` is `auto` (a GPU if CUDA works, else the CPU) or a PyTorch device; `repr` shows which. `heads` are names of
    the model's head sets or head folders, the first being the default; if none is given, all of the model's own are
    loaded. Heads trained on another trunk are an error unless `allow_stale_heads`. `draft_model` is the folder of a
    smaller model, for strategies that draft with one. `ctc` is the folder of a CTC draft head (default: the model's
    own). `drafts` is the precision of the heads: `int8`, several times as fast on a CPU in float32, or `float32`
    (default: what the model's configuration names, if the device can).

    ConfigError for a device, dtype or precision that cannot be used, CheckpointError for a model that cannot be loaded.
    """
    number_type = parse_dtype(dtype)
    named = [heads] if isinstance(heads, (str, Path)) else heads
    bundle = load_bundle(str(model), allow_stale_heads, [str(item) for item in named], str(ctc))
    draft = load_draft_model(str(draft_model), bundle) if draft_model else None
    if drafts not in ("", *get_args(Drafts)):
        raise ConfigError(f"drafts={drafts!r}: expected one of {', '.join(get_args(Drafts))}")
    device = find_device(device)
    problem = int8_problem(device, number_type)
    if drafts == "int8" and problem:
        raise ConfigError(f"drafts='int8': needs a CPU and float32, found {problem}; leave it out")
    int8 = (drafts or bundle.config.drafts) == "int8" and not problem
    return Recogniser(bundle, torch.device(device), number_type, draft=draft, int8_drafts=int8)
