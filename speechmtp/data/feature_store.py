"""Features of a data directory, computed once and cached in memory up to a limit."""

from collections import OrderedDict

import torch
from torch import Tensor

from speechmtp.audio.augment import speed_perturb
from speechmtp.audio.features import Fbank
from speechmtp.data.kaldi import DataDir


class FeatureStore:
    """Cache of features by utterance and speed, limited to `limit_mb` megabytes; the least recently used are dropped
    first."""

    def __init__(self, data: DataDir, fbank: Fbank, limit_mb: float = 2000.0, allow_pipes: bool = False) -> None:
        self._data, self._fbank, self._limit = data, fbank, limit_mb * 1e6
        self._allow_pipes = allow_pipes
        self._kept: OrderedDict[tuple[str, float], Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, utterance: str, speed: float = 1.0) -> Tensor:
        """Features [T, F] (float32, cached in half precision) of one utterance played `speed` times as fast."""
        key = (utterance, speed)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key].float()
        rate = self._fbank.config.sample_rate
        audio = self._data[utterance].load(rate, self._allow_pipes)
        if speed != 1.0:
            audio = speed_perturb(audio, rate, speed)
        frames, _ = self._fbank(torch.from_numpy(audio)[None], None)
        # Half precision has an error of 1e-2 in log energies, far below the changes by augmentation.
        self._kept[key] = frames[0].half()
        self._bytes += self._kept[key].nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= old.nbytes
        return self._kept[key].float()


def pad(frames: list[Tensor], fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """A padded batch [B, T, F] and lengths [B] of features of different lengths."""
    lengths = torch.tensor([len(f) for f in frames])
    return torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=fill), lengths
