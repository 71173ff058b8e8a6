"""The main Python interface: `load` gives a `Recogniser`, which encodes, decodes and transcribes audio."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch

from speechmtp.audio.cut import LONGEST, SHORTEST, Cutter, cut_points
from speechmtp.audio.inputs import Audio, input_name
from speechmtp.batching import default_rows
from speechmtp.bundle import Bundle, Drafts, load_bundle, load_draft_model
from speechmtp.cores import cores
from speechmtp.crew import Crew
from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, parse_strategy
from speechmtp.devices import find_device, int8_problem, parse_dtype
from speechmtp.errors import CheckpointError, ConfigError, DataError
from speechmtp.g2p.frontend import FrontEnd
from speechmtp.listening import AudioSource, OnError, listen_each, sources_of
from speechmtp.progress import AudioProgress, Told
from speechmtp.recognition import RecognitionModel
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.stream import RecognitionStream
from speechmtp.synthesis import Synthesiser
from speechmtp.transcripts import TimedWords, Timing, Transcript, decode_each, join_parts
from speechmtp.types import Request, Result
from speechmtp.words.group import group_words
from speechmtp.words.segments import PAUSE


@dataclass(repr=False)
class Recogniser(RecognitionModel):
    """Speech to text with one model; immutable after loading, safe to share.

    >>> import speechmtp
    >>> recogniser = speechmtp.load("an4")
    >>> print(recogniser.transcribe(speechmtp.example("digits")))
    FOUR TWO SEVEN NINE
    """

    def create_stream(
        self, config: StreamConfig | None = None, *, language: str = "", task: str = ""
    ) -> RecognitionStream:
        """A stream that is fed audio as it arrives and says words as they become certain (`streaming/stream.py`).

        `config` says when it decodes and commits; `language` and `task` are those of `listen`. ConfigError for a
        strategy that the model cannot run.
        """
        return RecognitionStream(self, config, language, task)

    def _timed(self, request: Request, result: Result) -> TimedWords:
        """The words of a result with their times, and the tokens of each."""
        words = self.time_words(request, result.tokens, result.trace.logprobs)
        return TimedWords(words, tuple(group_words(result.tokens, self.bundle.model.decode, request.rules.eos)))

    def spans(self, audio: np.ndarray) -> list[tuple[int, int]]:
        """Spans [start, end) of the parts in which a recording [N] is encoded: one, or several that are cut at its
        pauses where it is longer than 25 s, or than `longest` if that is less."""
        return cut_points(audio, self.rate, *self._part_seconds)

    def cutter(self) -> Cutter:
        """What cuts a recording that comes in blocks as `spans` cuts one."""
        return Cutter(self.rate, *self._part_seconds)

    @property
    def _part_seconds(self) -> tuple[float, float]:
        """The least and the most seconds of a part that is not the last."""
        longest = min(LONGEST, self.longest)
        return SHORTEST * (longest / LONGEST), longest

    def listen_parts(
        self, audio: np.ndarray, name: str = "audio", noise_key: int = 0, language: str = "", task: str = ""
    ) -> Iterator[Request]:
        """Encode a recording [N] of any length as one or more requests, one for each of its `spans`. They have the
        noise keys `noise_key`, `noise_key` + 1, and so on."""
        for number, (start, end) in enumerate(self.spans(audio)):
            yield self._listen_part(audio[start:end], name, noise_key + number, language, task)

    def _listen_part(self, audio: np.ndarray, name: str, noise_key: int, language: str, task: str) -> Request:
        return replace(self.listen(audio, name, language, task), noise_key=noise_key)

    def transcribe_part(
        self, samples: np.ndarray, start: float = 0.0, strategy: Strategy | None = None, *, name: str = "audio",
        language: str = "", task: str = "", logprobs: bool = False, words: bool = False, pause: float = PAUSE,
    ) -> Transcript:  # fmt: skip
        """Transcribe samples [n], float32 at `rate` Hz, that are one of the parts into which `cutter` cuts a recording;
        it begins at `start` seconds. All times are those of the recording. The texts of all parts, joined by blanks,
        are the text of `transcribe`. The other arguments are those of `transcribe_many`, and `name` is for errors.
        DataError for samples that cannot be encoded."""
        request = self.listen(samples, name, language, task)
        chosen = self.default_strategy if strategy is None else strategy
        [result] = self.decode([request], chosen, None, Recorded(logprobs=logprobs or words))
        timed = [self._timed(request, result)] if words else None
        return join_parts([request], [result], result.seconds, timed, pause, start)

    def transcribe(
        self, audio: Audio, rate: float | None = None, strategy: str | Strategy | None = None, *,
        language: str = "", task: str = "", progress: Told | bool | None = None, logprobs: bool = False,
        sampling: SamplingConfig | None = None, jobs: int | None = None, words: bool = False, pause: float = PAUSE,
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
            sampling=sampling, names=[input_name(audio)], jobs=jobs, words=words, pause=pause,
        )  # fmt: skip
        [one] = found
        return one

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int | None = ..., on_error: Literal["raise"] = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ..., jobs: int | None = ...,
        threads: int = ..., words: bool = ..., pause: float = ...,
    ) -> Iterator[Transcript]: ...  # fmt: skip

    @overload
    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
        batch: int | None = ..., on_error: OnError = ..., progress: Told | bool | None = ..., *,
        language: str = ..., task: str = ..., logprobs: bool = ..., sampling: SamplingConfig | None = ...,
        noise_keys: Sequence[int] | None = ..., names: Sequence[str] | None = ..., jobs: int | None = ...,
        threads: int = ..., words: bool = ..., pause: float = ...,
    ) -> Iterator[Transcript | DataError]: ...  # fmt: skip

    def transcribe_many(
        self, sources: Iterable[AudioSource], rate: float | None = None, strategy: str | Strategy | None = None,
        batch: int | None = None, on_error: OnError = "raise", progress: Told | bool | None = None, *,
        language: str = "", task: str = "", logprobs: bool = False, sampling: SamplingConfig | None = None,
        noise_keys: Sequence[int] | None = None, names: Sequence[str] | None = None, jobs: int | None = None,
        threads: int = 1, words: bool = False, pause: float = PAUSE,
    ) -> Iterator[Transcript | DataError]:  # fmt: skip
        """Transcribe many recordings in their order; `batch` parts of similar length are decoded together (default: 4
        on a CPU, 16 elsewhere), which is faster than one by one.

        `sources` are of every kind that `transcribe` takes, or functions that return one when called. They are read
        lazily, long files in blocks: at most 256 parts or about ten minutes of audio ahead. With `on_error="return"`
        the DataError of a recording that cannot be read or encoded is yielded in its place; with "raise" it is raised
        there, after the transcripts before it.

        `progress` is called with the seconds done and the seconds of all recordings (None until all are read); a part
        counts as half done once it is encoded. True shows a bar in a terminal. `language` and `task` are those of
        `listen`. `logprobs` computes the segments' `mean_logprob`, at some cost in time. Where `sampling` samples
        tokens, `noise_keys` give the noise key of each recording's first part (default: parts are numbered). `names`
        are what errors call the recordings.

        `words` finds when each word was said, and computes how sure the recogniser was of it (as `logprobs` does).
        Segments then also end where a sentence does and a pause of at least `pause` seconds follows.

        `jobs` worker threads encode and decode (default: as many as the process may use cores; on a GPU always one),
        each with `threads` arithmetic threads; one job is done in the caller's thread, with its own arithmetic threads.
        Sources are read, functions and `progress` called in the caller's thread.

        ConfigError for `batch`, `jobs` or `threads` below 1, a negative `pause`, an unknown `on_error`, and `sources`
        that are a single recording.
        """
        jobs = cores() if jobs is None else jobs
        batch = default_rows(self.device.type) if batch is None else batch
        for number, value in (("batch", batch), ("jobs", jobs), ("threads", threads)):
            if value < 1:
                raise ConfigError(f"transcribe_many: {number}={value}, expected 1 or more")
        if not pause >= 0:
            raise ConfigError(f"transcribe_many: pause={pause}, expected 0 or more seconds")
        if on_error not in get_args(OnError):
            raise ConfigError(f"transcribe_many: on_error={on_error!r}, expected one of {', '.join(get_args(OnError))}")
        named = parse_strategy(strategy) if isinstance(strategy, str) and strategy else strategy
        chosen, sources = named or self.default_strategy, sources_of(sources)

        def decode(parts: list[Request]) -> list[Result]:
            return self.decode(parts, chosen, sampling, Recorded(logprobs=logprobs or words))

        timing = Timing(self._timed, pause) if words else None

        def found() -> Iterator[Transcript | DataError]:
            count = len(sources) if isinstance(sources, Sized) else None
            raises, on_cpu = on_error == "raise", self.device.type == "cpu"
            listen = partial(self._listen_part, language=language, task=task)
            with AudioProgress(progress, "transcribing", count) as bar, Crew(jobs if on_cpu else 1, threads) as crew:
                if chosen.length is not None:  # costs are measured while the other workers rest
                    list(crew.map(self.runner.bind, [self.runner.prepared(chosen)]))
                heard = listen_each(sources, rate, self.rate, self.cutter, listen, bar, crew, names, noise_keys, raises)
                for one in decode_each(heard, decode, batch, crew, bar.add, timing):
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
    bundle = load_bundle(str(model), allow_stale_heads, [str(item) for item in named], str(ctc), "recogniser")
    draft = load_draft_model(str(draft_model), bundle) if draft_model else None
    device = find_device(device)
    int8 = _int8(drafts, bundle, device, number_type)
    return Recogniser(bundle, torch.device(device), number_type, draft=draft, int8_drafts=int8)


def load_voice(
    voice: str | Path = "heart", device: str | torch.device = "auto", dtype: str | torch.dtype = "float32",
    heads: str | Path | Sequence[str | Path] = (), allow_stale_heads: bool = False, drafts: str = "",
    lexicon: str | Path | Mapping[str, str] = "",
) -> Synthesiser:  # fmt: skip
    """Load a voice from a model folder, a hub name, or the name of an embedded voice (`heart`).

    `lexicon` is a file of pronunciations, or a mapping of words to phones; they are used in place of the front end's
    own. The other arguments are those of `load`. CheckpointError for a model that is no voice, DataError for a lexicon
    that cannot be read.
    """
    number_type = parse_dtype(dtype)
    named = [heads] if isinstance(heads, (str, Path)) else heads
    bundle = load_bundle(str(voice), allow_stale_heads, [str(item) for item in named], kind="voice")
    if bundle.codec is None:
        raise CheckpointError(f"{voice}: a voice without a codec, expected one that comes with the voice")
    device = find_device(device)
    int8 = _int8(drafts, bundle, device, number_type)
    frontend = FrontEnd(lexicon) if lexicon else FrontEnd()
    return Synthesiser(bundle, torch.device(device), number_type, int8_drafts=int8, frontend=frontend)


def _int8(drafts: str, bundle: Bundle, device: str, dtype: torch.dtype) -> bool:
    """Whether heads compute in 8 bits. ConfigError for a precision that cannot be used."""
    if drafts not in ("", *get_args(Drafts)):
        raise ConfigError(f"drafts={drafts!r}: expected one of {', '.join(get_args(Drafts))}")
    problem = int8_problem(device, dtype)
    if drafts == "int8" and problem:
        raise ConfigError(f"drafts='int8': needs a CPU and float32, found {problem}; leave it out")
    return (drafts or bundle.config.drafts) == "int8" and not problem
