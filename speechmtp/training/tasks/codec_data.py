"""Training data of codecs: crops of recordings, with the units, spans and tokens around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechmtp.codec.contract import FRAME, RATE, Spans
from speechmtp.codec.network import UnitView, sentence_view, word_view
from speechmtp.codec.unit25 import AHEAD, QUANTUM, TOKENS
from speechmtp.data.batch import seeded
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.errors import DataError
from speechmtp.training.tasks.tts_data import read_codes

BEFORE, BEHIND = 160, 80  # frames around a crop whose units its own may see: 2 s and 1 s
KEPT = 4096  # decoded recordings in memory, as 16-bit integers


@dataclass(frozen=True)
class Recording:
    """An utterance with its spans and its tokens."""

    utterance: Utterance
    spans: Spans
    tokens: np.ndarray


@dataclass(frozen=True)
class CodecBatch:
    """Crops of Q quanta: what their units see of each other, the place of the unit of every frame of every window
    `units` [B, Q, W], `mask` [B, Q, W, 1], the tokens around every quantum [B, Q, 8], and `samples` [B, Q x 4800]."""

    view: UnitView
    units: Tensor
    mask: Tensor
    tokens: Tensor
    samples: Tensor

    def to(self, device: torch.device) -> "CodecBatch":
        """The batch on a device."""
        seen = self.view
        view = UnitView(seen.ids.to(device), seen.near.to(device), seen.seen.to(device), seen.size)
        return CodecBatch(view, *(part.to(device) for part in (self.units, self.mask, self.tokens, self.samples)))


def read_recordings(data: DataDir, tokens: Path, size: int) -> list[Recording]:
    """The utterances of a data directory that have spans and a line in the table `tokens`, in byte order. DataError for
    lines that do not fit the spans, and for tokens of `size` or more."""
    codes = read_codes(data, size, tokens)
    return [Recording(data[key], spans, np.array(ids)) for key, (spans, ids) in codes.items()]


class Crops:
    """Random crops of recordings; batch n is a function of the seed and n."""

    def __init__(
        self, recordings: Sequence[Recording], rows: int, quanta: int, ahead: int, whole_words: bool, seed: int,
        allow_pipes: bool = False,
    ) -> None:  # fmt: skip
        self._recordings, self._rows, self._quanta, self._ahead = recordings, rows, quanta, ahead
        self._view: Callable[[Spans], UnitView] = _words if whole_words else _sentence
        self._seed, self._pipes = seed, allow_pipes
        self._samples = lru_cache(maxsize=KEPT)(self._load)

    def __len__(self) -> int:
        return len(self._recordings)

    def batch(self, number: int) -> CodecBatch:
        """Batch `number` of endless epochs."""
        total = len(self._recordings)
        rows = []
        for place in range(number * self._rows, (number + 1) * self._rows):
            epoch, index = divmod(place, total)
            recording = int(_order(self._seed, epoch, total)[index])
            frames = self._recordings[recording].spans.total
            last = max(0, -(-(frames - self._quanta * QUANTUM) // QUANTUM))
            rows.append((recording, int(seeded("crop", self._seed, place).integers(last + 1))))
        return self.cut(rows)

    def _load(self, index: int) -> np.ndarray:
        one = self._recordings[index]
        samples = one.utterance.load(RATE, self._pipes)
        if len(samples) != one.spans.samples:
            raise DataError(
                f"{one.utterance.origin}: {len(samples)} samples at 24 kHz, its frames last {one.spans.samples}; "
                "drop the utterance or mend its frames"
            )
        return np.round(samples * 32767).astype(np.int16)

    def cut(self, rows: Sequence[tuple[int, int]]) -> CodecBatch:
        """The batch of the crops of these recordings, by their index, from these quanta on."""
        views, units, masks, tokens, samples = [], [], [], [], []
        window, size = QUANTUM + self._ahead, self._quanta * QUANTUM
        for index, first in rows:
            one, start = self._recordings[index], first * QUANTUM
            inside, unit = _around(one.spans, start, start + size + self._ahead)
            views.append(self._view(inside))
            units.append(torch.from_numpy(unit).unfold(0, window, QUANTUM))
            known = torch.arange(start, start + size + self._ahead) < one.spans.total
            masks.append(known.float().unfold(0, window, QUANTUM)[..., None])
            at = np.arange(first, first + self._quanta)[:, None] * TOKENS + np.arange(-1, TOKENS + AHEAD)
            tokens.append(torch.from_numpy(one.tokens[at.clip(0, len(one.tokens) - 1)]))
            cut = self._samples(index)[start * FRAME : (start + size) * FRAME]
            padded = np.pad(cut, (0, size * FRAME - len(cut)))
            samples.append(torch.from_numpy(padded.astype(np.float32) / 32767))
        stacked = [torch.stack(part) for part in (units, masks, tokens, samples)]
        return CodecBatch(stack_views(views), *stacked)


def _words(spans: Spans) -> UnitView:
    return word_view(spans.ids.tolist(), spans.words.tolist())


def _sentence(spans: Spans) -> UnitView:
    return sentence_view(spans.ids.tolist())


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    return seeded("recordings", seed, epoch).permutation(total)


def _around(spans: Spans, first: int, last: int) -> tuple[Spans, np.ndarray]:
    """The spans of the units around the frames from `first` to `last`, and the place among them of the unit of each."""
    ends = spans.frames.cumsum()
    frames = np.arange(first, last).clip(0, spans.total - 1)
    units = np.searchsorted(ends, frames, side="right")
    low = int(np.searchsorted(ends, max(0, first - BEFORE), side="right"))
    high = int(np.searchsorted(ends, min(spans.total - 1, last + BEHIND), side="right")) + 1
    low = int(np.searchsorted(spans.words, spans.words[low]))  # from the beginning of its word
    part = slice(low, high)
    return Spans(spans.ids[part], spans.words[part] - spans.words[low], spans.frames[part]), units - low


def stack_views(views: Sequence[UnitView]) -> UnitView:
    """One view of all sentences, padded; places that no unit has see only themselves."""
    size, places = max(view.size for view in views), [len(view.ids[0]) for view in views]
    most = max(places)
    ids = torch.zeros(len(views), most, dtype=torch.long)
    near = torch.full((len(views), most, 5), most)
    seen = torch.eye(most, dtype=torch.bool).repeat(len(views), 1, 1)
    for row, (view, count) in enumerate(zip(views, places)):
        ids[row, :count] = view.ids[0]
        near[row, :count] = view.near[0].masked_fill(view.near[0] == count, most)
        seen[row, :count, :count] = view.seen[0]
    return UnitView(ids, near, seen, size)
