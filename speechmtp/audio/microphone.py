"""Audio of the microphone, by PortAudio."""

import queue
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from speechmtp.audio.resampling import StreamResampler
from speechmtp.errors import AudioWarning, ConfigError, DataError

BLOCK = 0.05  # seconds
WAIT = 0.2  # seconds
_MEND = "plug one in, or choose it in the system's settings"


def open_microphone(rate: int) -> Iterator[np.ndarray]:
    """Float32 mono blocks [n] at `rate` Hz of what the system's default microphone hears, without end.

    ConfigError if the package sounddevice or the library PortAudio is missing; DataError if there is no microphone, if
    it cannot be opened, or if it stops.
    """
    sounddevice = find_sounddevice("microphone")
    heard: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
    lost = queue.SimpleQueue[str]()

    def take(samples: np.ndarray, frames: int, time: Any, status: Any) -> None:
        if status:
            lost.put(str(status))
        heard.put(samples[:, 0].copy())

    try:
        device = sounddevice.query_devices(kind="input")
        name, own = device["name"], float(device["default_samplerate"])
        if not own > 0:
            raise DataError(f"microphone: {name} has a rate of {own:g} Hz, expected a working microphone; {_MEND}")
        stream = sounddevice.InputStream(
            samplerate=own, channels=1, dtype="float32", blocksize=max(1, round(BLOCK * own)), callback=take,
            finished_callback=lambda: heard.put(None),
        )  # fmt: skip
    except (sounddevice.PortAudioError, ValueError) as error:
        raise DataError(f"microphone: none that works ({_line(error)}), expected one; {_MEND}") from error
    resampler, whole = StreamResampler(own, rate), True
    with stream:
        while (block := _next(heard)) is not None:
            if whole and not lost.empty():
                whole, about = False, lost.get()
                warnings.warn(f"microphone: audio was lost ({about}); the rest is heard", AudioWarning, stacklevel=2)
            yield resampler.push(block)
    raise DataError(f"microphone: {name} has stopped, expected more audio; {_MEND}")


def _next(heard: "queue.SimpleQueue[np.ndarray | None]") -> np.ndarray | None:
    """The next block. A Ctrl-C just before the wait begins does not end it, so it is cut into short ones."""
    while True:
        with suppress(queue.Empty):
            return heard.get(timeout=WAIT)


def find_sounddevice(what: str) -> Any:
    """The package sounddevice, for `what`; ConfigError if it, or the library that it needs, is missing."""
    try:
        import sounddevice
    except ImportError:
        raise ConfigError(f"{what}: needs sounddevice, not installed; pip install 'speechmtp[mic]'") from None
    except OSError as error:
        raise ConfigError(f"{what}: needs PortAudio ({_line(error)}); install it, on Debian as libportaudio2") from None
    return sounddevice


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
