"""Simulation of noisy CTC segments for texts without audio.

A bank holds real segments of augmented training audio by (reference token, recognised label). To simulate the segments
of a text, substitutions, deletions and insertions are sampled at the rates counted there (scaled per utterance), and a
real segment is sampled for every resulting label.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from speechmtp.errors import ConfigError, DataError
from speechmtp.models.segments import SEGMENT_FEATURES, Segments


@dataclass(frozen=True)
class NoiseConfig:
    """Options of simulated errors: error rates are multiplied by a factor sampled uniformly from the range `scale` per
    utterance; `smooth` is the share of uniform confusions, `clean` the share of utterances without errors."""

    scale: tuple[float, ...] = (0.3, 2.0)
    smooth: float = 0.1
    clean: float = 0.1

    def __post_init__(self) -> None:
        if len(self.scale) != 2 or not 0 <= self.scale[0] <= self.scale[1] or not 0 < self.smooth <= 1:
            raise ConfigError(f"noise: scale of two rising numbers from 0 on, 0 < smooth <= 1 expected, found {self}")


@dataclass(frozen=True)
class Event:
    """One segment of real audio: its reference token (V: none, an insertion), its label, posterior and features."""

    reference: int
    label: int
    posterior: np.ndarray  # [V + 1]
    features: np.ndarray  # [4]


class SegmentBank:
    """Real segments by (reference, label), and the rates of substitutions, deletions and insertions."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._events: list[Event] = []
        self._references = np.zeros(vocab_size + 1)
        self._pairs = np.zeros((vocab_size + 1, vocab_size + 1))  # [reference or none, label or none]

    def add(self, reference: Sequence[int], labels: Sequence[int], posterior: np.ndarray, features: np.ndarray) -> None:
        """Add one utterance: its reference tokens, and `labels`, `posterior` [n, V + 1] and `features` [n, 4] of its
        segments."""
        none = self.vocab_size
        for operation in Levenshtein.opcodes(reference, labels):
            left = list(range(operation.src_start, operation.src_end))
            right = list(range(operation.dest_start, operation.dest_end))
            for place in range(max(len(left), len(right))):
                source = reference[left[place]] if place < len(left) else none
                target = labels[right[place]] if place < len(right) else none
                self._pairs[source, target] += 1
                if target != none:
                    index = right[place]
                    self._events.append(Event(source, target, posterior[index], features[index]))
        for token in reference:
            self._references[token] += 1

    @property
    def error_rate(self) -> float:
        """Errors of the collected labels divided by the number of reference tokens."""
        return float((self._pairs.sum() - np.trace(self._pairs)) / max(1.0, self._references.sum()))

    def freeze(self, smooth: float, error_rate: float | None = None) -> None:
        """Sort the events and compute rates from the counts, scaled to `error_rate` (0..1) if given. DataError if there
        is no segment."""
        if not self._events:
            raise DataError("text stage: no segment was recognised in the training audio; train the CTC phase first")
        size = self.vocab_size
        order = np.argsort([e.reference * (size + 1) + e.label for e in self._events], kind="stable")
        events = [self._events[i] for i in order]
        self.posterior = np.stack([e.posterior for e in events]).astype(np.float32)
        self.features = np.stack([e.features for e in events]).astype(np.float32)
        self.reference = np.array([e.reference for e in events])
        self.label = np.array([e.label for e in events])
        keys = self.reference * (size + 1) + self.label
        grid = np.arange((size + 1) * (size + 1))
        self.first = np.searchsorted(keys, grid, "left").reshape(size + 1, size + 1)
        self.count = np.searchsorted(keys, grid, "right").reshape(size + 1, size + 1) - self.first
        self.errors = np.flatnonzero((self.reference != self.label) & (self.reference != size))
        self.insertions = np.flatnonzero(self.reference == size)
        seen = self._references[:size, None] + 1.0
        self.deletion = (self._pairs[:size, size] + 0.5) / seen[:, 0]
        confusions = self._pairs[:size, :size] * (1 - np.eye(size))
        share = confusions.sum(1, keepdims=True)
        self.substitution = (share[:, 0] + 0.5) / seen[:, 0]
        probs = (1 - smooth) * confusions / np.maximum(share, 1) + smooth / size
        np.fill_diagonal(probs, 0)
        self.confusion = (probs / probs.sum(1, keepdims=True)).cumsum(1)
        self.insertion = len(self.insertions) / max(1.0, self._references.sum())
        if error_rate is not None:
            # The rates include the added half counts, which would otherwise be scaled far too much if errors are few.
            tokens = self._references[:size]
            rate = (tokens * (self.deletion + self.substitution)).sum() / max(1.0, tokens.sum()) + self.insertion
            scale = error_rate / rate
            self.deletion, self.substitution = self.deletion * scale, self.substitution * scale
            self.insertion *= scale

    def draw(
        self, reference: np.ndarray, label: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample a real posterior [n, V + 1] and features [n, 4] for every (reference, label). Pairs that never
        occurred use the segment of another confusion, with its two tokens exchanged for these."""
        first, count = self.first[reference, label], self.count[reference, label]
        index = first + (random.random(len(label)) * count).astype(int)
        missing = np.flatnonzero(count == 0)
        pool = self.errors if len(self.errors) else np.arange(len(self.label))
        index[missing] = pool[(random.random(len(missing)) * len(pool)).astype(int)]
        posterior, features = self.posterior[index].copy(), self.features[index]
        for place in missing:
            drawn, old = int(self.label[index[place]]), int(self.reference[index[place]])
            _exchange(posterior[place], drawn, int(label[place]))
            if reference[place] < self.vocab_size and old < self.vocab_size and reference[place] != label[place]:
                source = drawn if old == label[place] else old  # the old reference's column after the first exchange
                if source != label[place]:
                    _exchange(posterior[place], source, int(reference[place]))
        return posterior, features


def _exchange(row: np.ndarray, a: int, b: int) -> None:
    row[a], row[b] = row[b], row[a]


def simulate(
    texts: Sequence[Sequence[int]], bank: SegmentBank, config: NoiseConfig, random: np.random.Generator
) -> Segments:
    """Simulate noisy segments of token lists, as a padded batch without acoustic states."""
    rows = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    tokens = np.concatenate([np.asarray(t, dtype=np.int64) for t in texts])
    low, high = config.scale
    scale = random.uniform(low, high, len(texts)) * (random.random(len(texts)) >= config.clean)
    rate = scale[rows]
    draw = random.random(len(tokens))
    deleted = draw < rate * bank.deletion[tokens]
    wrong = ~deleted & (draw < rate * (bank.deletion + bank.substitution)[tokens])
    labels = tokens.copy()
    where = np.flatnonzero(wrong)
    labels[where] = (random.random((len(where), 1)) > bank.confusion[tokens[where]]).sum(1).clip(0, bank.vocab_size - 1)
    inserted = (random.random(len(tokens)) < rate * bank.insertion) & (len(bank.insertions) > 0)
    places = np.flatnonzero(inserted)
    which = (random.random(len(places)) * len(bank.insertions)).astype(int)
    picked = bank.label[bank.insertions[which]]
    kept = np.flatnonzero(~deleted)
    order = np.concatenate([2 * kept + 1, 2 * places])
    reference = np.concatenate([tokens[kept], np.full(len(places), bank.vocab_size)])
    label = np.concatenate([labels[kept], picked])
    row = np.concatenate([rows[kept], rows[places]])
    sort = np.argsort(order, kind="stable")
    reference, label, row = reference[sort], label[sort], row[sort]
    posterior, features = bank.draw(reference, label, random)
    return _pad(len(texts), row, label, posterior, features)


def _pad(rows: int, row: np.ndarray, label: np.ndarray, posterior: np.ndarray, features: np.ndarray) -> Segments:
    counts = np.bincount(row, minlength=rows)
    size = max(1, int(counts.max(initial=0)))
    place = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
    out_p = np.zeros((rows, size, posterior.shape[1]), np.float32)
    out_f = np.zeros((rows, size, SEGMENT_FEATURES), np.float32)
    out_l = np.full((rows, size), -1)
    out_p[row, place], out_f[row, place], out_l[row, place] = posterior, features, label
    return Segments(
        torch.from_numpy(out_p), None, torch.from_numpy(out_f), torch.from_numpy(out_l), torch.from_numpy(counts)
    )


def collect(bank: SegmentBank, references: Iterable[Sequence[int]], segments: Segments) -> None:
    """Add a batch of real segments to a bank."""
    # Half precision to save memory: a bank holds about 10^5 segments.
    posterior, features = segments.posterior.cpu().half().numpy(), segments.features.cpu().half().numpy()
    for row, (reference, length) in enumerate(zip(references, segments.lengths.tolist())):
        labels = segments.labels[row, :length].tolist()
        bank.add(reference, labels, posterior[row, :length], features[row, :length])
