"""A loaded recogniser: it encodes samples and decodes requests. What reads files and microphones stands above it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from speechmtp.audio.levels import check_floats, inaudible
from speechmtp.errors import ConfigError, DataError
from speechmtp.loaded_model import LoadedModel
from speechmtp.models.character_ctc import CharacterCtcSource
from speechmtp.models.prefix import with_prefix
from speechmtp.types import Request
from speechmtp.words.timing import time_words
from speechmtp.words.word import Word


@dataclass(repr=False)
class RecognitionModel(LoadedModel):
    """A recogniser with its heads, on a device; immutable after loading, safe to share."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._spelling = None if self.bundle.ctc is None else self.bundle.model.spelling()

    @torch.inference_mode()
    def listen(
        self, audio: np.ndarray, name: str = "audio", language: str = "", task: str = "", prefix: Sequence[int] = ()
    ) -> Request:
        """Encode samples [N] (float32, at `rate` Hz) and build the decoder's prompt.

        The audio is encoded alone and without padding, so the request is the same for every strategy and batch size. A
        CTC draft head does not run here, but whenever a strategy reads it. Silence, 80 dB below full scale or lower, is
        not encoded, and its text is empty. `name` is what errors call the audio. `language` (code or English name) and
        `task` (`transcribe` or `translate`) are for multilingual models; where empty, the model's own configuration
        decides. `prefix` are tokens with which the output begins: they are not decoded, and are not among the result's
        tokens (`with_prefix`). DataError for samples that are not [N], not finite, far beyond 1, longer than `longest`
        seconds, or too short for the encoder.
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
        request = replace(request, limit=limit, audio_seconds=len(audio) / self.rate, listen_seconds=seconds)
        return with_prefix(request, prefix, model.trunk)

    def time_words(self, request: Request, tokens: Sequence[int], logprobs: Sequence[float] = ()) -> tuple[Word, ...]:
        """The words of `tokens`, the whole output of a request, with their times and confidence (`words/timing.py`)."""
        return time_words(self.bundle.model, self.bundle.ctc, request, tokens, logprobs)
