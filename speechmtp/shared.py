"""`transcribe` and `transcribe_many` of the package, which use recognisers that are loaded once per process."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import torch

from speechmtp.api import Recogniser, load
from speechmtp.audio.inputs import Audio
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy
from speechmtp.devices import dtype_name, find_device
from speechmtp.errors import DataError
from speechmtp.listening import AudioSource, OnError
from speechmtp.models.locate import EMBEDDED, locate
from speechmtp.progress import Told
from speechmtp.transcripts import Transcript
from speechmtp.words.segments import PAUSE

_loaded: dict[tuple[str, str, str], tuple[object, Recogniser]] = {}
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a fork waits until a model is loaded, so that the lock is free in the child
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def transcribe(
    audio: Audio, rate: float | None = None, strategy: str | Strategy | None = None, *, model: str | Path = "default",
    device: str | torch.device = "auto", dtype: str | torch.dtype = "float32", language: str = "", task: str = "",
    progress: Told | bool | None = None, logprobs: bool = False, sampling: SamplingConfig | None = None,
    jobs: int | None = None, words: bool = False, pause: float = PAUSE,
) -> Transcript:  # fmt: skip
    """`Recogniser.transcribe` with a shared model, which is loaded at the first call and kept.

    There is one per process, for all threads, for each model folder, device and dtype; it is loaded again when files of
    the folder have changed. `load` gives a recogniser of your own.
    """
    with_model = _shared(model, device, dtype)
    return with_model.transcribe(
        audio, rate, strategy, language=language, task=task, progress=progress, logprobs=logprobs, sampling=sampling,
        jobs=jobs, words=words, pause=pause,
    )  # fmt: skip


@overload
def transcribe_many(
    sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
    batch: int | None = ..., on_error: Literal["raise"] = ..., progress: Told | bool | None = ..., *,
    model: str | Path = ...,
    device: str | torch.device = ..., dtype: str | torch.dtype = ..., language: str = ..., task: str = ...,
    logprobs: bool = ..., sampling: SamplingConfig | None = ..., noise_keys: Sequence[int] | None = ...,
    names: Sequence[str] | None = ..., jobs: int | None = ..., threads: int = ...,
    words: bool = ..., pause: float = ...,
) -> Iterator[Transcript]: ...  # fmt: skip


@overload
def transcribe_many(
    sources: Iterable[AudioSource], rate: float | None = ..., strategy: str | Strategy | None = ...,
    batch: int | None = ..., on_error: OnError = ..., progress: Told | bool | None = ..., *, model: str | Path = ...,
    device: str | torch.device = ..., dtype: str | torch.dtype = ..., language: str = ..., task: str = ...,
    logprobs: bool = ..., sampling: SamplingConfig | None = ..., noise_keys: Sequence[int] | None = ...,
    names: Sequence[str] | None = ..., jobs: int | None = ..., threads: int = ...,
    words: bool = ..., pause: float = ...,
) -> Iterator[Transcript | DataError]: ...  # fmt: skip


def transcribe_many(
    sources: Iterable[AudioSource], rate: float | None = None, strategy: str | Strategy | None = None,
    batch: int | None = None, on_error: OnError = "raise", progress: Told | bool | None = None, *,
    model: str | Path = "default", device: str | torch.device = "auto", dtype: str | torch.dtype = "float32",
    language: str = "", task: str = "", logprobs: bool = False, sampling: SamplingConfig | None = None,
    noise_keys: Sequence[int] | None = None, names: Sequence[str] | None = None, jobs: int | None = None,
    threads: int = 1, words: bool = False, pause: float = PAUSE,
) -> Iterator[Transcript | DataError]:  # fmt: skip
    """`Recogniser.transcribe_many` with the same shared models as `transcribe`."""
    with_model = _shared(model, device, dtype)
    return with_model.transcribe_many(
        sources, rate, strategy, batch, on_error, progress, language=language, task=task,
        logprobs=logprobs, sampling=sampling, noise_keys=noise_keys, names=names, jobs=jobs, threads=threads,
        words=words, pause=pause,
    )  # fmt: skip


def _shared(model: str | Path, device: str | torch.device, dtype: str | torch.dtype) -> Recogniser:
    """The shared recogniser of a model, loaded at first use; other threads wait during loading."""
    model, device, dtype = str(model), find_device(device), dtype_name(dtype)
    with _lock:
        # A hub name is not resolved at every call: that would need the network.
        folder = locate(model).resolve() if model in EMBEDDED or Path(model).is_dir() else None
        files = [] if folder is None else sorted(path for path in folder.rglob("*") if path.is_file())
        state = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        key = str(folder or model), device, dtype
        if key not in _loaded or _loaded[key][0] != state:
            _loaded[key] = state, load(model, device, dtype)
        return _loaded[key][1]
