"""Audio to the loudspeaker, by PortAudio."""

from types import TracebackType

import numpy as np

from speechmtp.audio.microphone import find_sounddevice
from speechmtp.errors import DataError


class Loudspeaker:
    """The system's default output at `rate` Hz, one channel; `play` returns when the samples are taken, and leaving the
    context waits until all are heard. ConfigError if the package sounddevice or the library PortAudio is missing,
    DataError if there is no output that works."""

    def __init__(self, rate: int) -> None:
        self._rate = rate

    def __enter__(self) -> "Loudspeaker":
        sounddevice = find_sounddevice("loudspeaker")
        try:
            self._stream = sounddevice.OutputStream(samplerate=self._rate, channels=1, dtype="float32")
        except (sounddevice.PortAudioError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"loudspeaker: none that works ({reason}), expected one; choose it in the system's settings, or write "
                f"a file"
            ) from error
        self._stream.start()
        return self

    def play(self, audio: np.ndarray) -> None:
        """Play samples [N] float32 in [-1, 1]."""
        self._stream.write(np.ascontiguousarray(audio[:, None], dtype=np.float32))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.stop()
        self._stream.close()
