"""Audio files that are written piece by piece, so that speech of any length needs little memory."""

from pathlib import Path
from types import TracebackType

import numpy as np

from speechmtp.audio.files import one_line
from speechmtp.errors import DataError, ShapeError

_WRITE_BLOCK = 1 << 16


def check_samples(path: str | Path, audio: np.ndarray) -> None:
    """ShapeError for samples of several channels, DataError for some that are not finite; `path` is for errors."""
    if audio.ndim != 1:
        raise ShapeError(f"{path}: audio of shape {audio.shape}, expected [N]")
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: samples that are not finite, expected numbers in [-1, 1]")


class AudioWriter:
    """A file of one channel at `rate` Hz; the extension selects the format (wav is 16-bit), values beyond 1 are
    clipped. It is made on entry. DataError for an unknown extension, a rate that the codec lacks, or a path that cannot
    be written."""

    def __init__(self, path: str | Path, rate: int) -> None:
        self.path, self.rate, self.samples = Path(path), rate, 0

    def __enter__(self) -> "AudioWriter":
        import soundfile

        kind = {"format": "OGG", "subtype": "OPUS"} if self.path.suffix.lower() == ".opus" else {}
        try:
            self._file = soundfile.SoundFile(str(self.path), "w", samplerate=self.rate, channels=1, **kind)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise self._refusal(error) from error
        return self

    def write(self, audio: np.ndarray) -> None:
        """Append samples [N] float32. DataError for samples that are not finite, ShapeError for several channels."""
        import soundfile

        check_samples(self.path, audio)
        try:
            # One large write to Ogg overflows the stack of libsndfile.
            for begin in range(0, len(audio), _WRITE_BLOCK):
                self._file.write(np.asarray(audio[begin : begin + _WRITE_BLOCK], dtype=np.float32))
        except soundfile.SoundFileError as error:
            raise self._refusal(error) from error
        self.samples += len(audio)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _refusal(self, error: Exception) -> DataError:
        return DataError(
            f"{self.path}: not writable at {self.rate} Hz ({one_line(error)}), "
            "expected a known extension and a rate the codec has; try .wav"
        )
