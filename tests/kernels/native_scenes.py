"""Random lives of rows in a decoder's cache, natively and by the model's own modules side by side.

Rows join, run prompts, chains and trees, are committed, rewound, selected, copied and appended; each keeps what it has
committed, so that it can be run again alone, an entry at a time.
"""

from dataclasses import dataclass, field

import tiny
import torch
from torch import Tensor

from speechmtp.ancestors import ancestors_of
from speechmtp.kernels.cpu.decoder import NativeDecoder
from speechmtp.models.cache import RaggedCache
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, States

CLOSE = 1e-4  # largest difference from the model's own modules, relative to the largest number


@dataclass
class Row:
    """The committed entries [C] of a row, their positions, and what the native step gave for each: the final state, the
    taps and the logits side by side. `memory` [S, E] are encoder outputs."""

    memory: Tensor | None
    entries: list[tuple[Tensor, int]] = field(default_factory=list)
    found: list[Tensor] = field(default_factory=list)

    def copy(self) -> "Row":
        """The same row, to go on by itself."""
        return Row(self.memory, list(self.entries), list(self.found))


def apart(mine: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)) if mine.numel() else 0.0


class Scene:
    """One trunk with a cache for each way of running it."""

    def __init__(self, trunk: Trunk, native: NativeDecoder, seed: int, most_rows: int = 5) -> None:
        self.trunk, self.native, self.rng, self.most_rows = trunk, native, tiny.generator(seed), most_rows
        self.ways: tuple[NativeDecoder | None, ...] = (native, None)
        self.caches = [trunk.new_cache(0) for _ in self.ways]
        for cache in self.caches:
            cache.capacity = cache._min_capacity = self.pick(2, 8)
        self.rows: list[Row] = []
        taps = [tap for tap in range(trunk.layers + 1) if self.pick(0, 1)]
        self.taps = tuple(taps) if self.pick(0, 1) else ()
        last = trunk.last_position
        self.far = last + 2 if last is not None else (30, 30, 700, 3000)[self.pick(0, 3)]
        self.steps = self.pick(1, 7)  # of all memories of Whisper

    def pick(self, low: int, high: int) -> int:
        """A random number from `low` to `high`."""
        return int(torch.randint(low, high + 1, (), generator=self.rng))

    def some(self, *shape: int) -> Tensor:
        """Random numbers."""
        return torch.randn(*shape, generator=self.rng)

    def join(self) -> None:
        """Append rows and run their prompts; all rows are in focus behind."""
        count = self.pick(1, self.most_rows)
        sizes = [self.pick(1, 9) if getattr(self.trunk, "_masks_memory", False) else self.steps for _ in range(count)]
        memory = 2 * self.some(count, max(sizes), self.trunk.width)
        speech = isinstance(self.trunk, Seq2SeqTrunk)
        self.rows += [Row(memory[i, :n] if speech else None) for i, n in enumerate(sizes)]
        first = torch.zeros(count, dtype=torch.long)
        for way, cache in zip(self.ways, self.caches):
            self.trunk.native = way
            heard = (memory, torch.tensor(sizes)) if speech else (None, None)
            self.trunk.join(cache, Prompt(memory, first[:, None], first, first, *heard))
        self.extend(self.pick(1, 6))
        self.focus(0, len(self.rows))

    def focus(self, first: int, last: int) -> None:
        """Let the next calls run over these rows."""
        for cache in self.caches:
            cache.focus(first, last)

    def extend(self, queries: int, tree: bool = False) -> None:
        """Run entries of the rows in focus and commit some."""
        first, count = self.caches[0].first, self.caches[0].count
        embeddings = self.some(count, queries, self.trunk.width)
        positions = torch.randint(0, self.far, (count, queries), generator=self.rng)
        parent, ancestors = None, None
        if tree:
            parent = torch.stack([
                torch.tensor([self.pick(-1, node - 1) for node in range(queries)]) for _ in range(count)
            ])  # fmt: skip
            ancestors = ancestors_of(parent)
        found = self.run(embeddings, positions, ancestors)
        paths = [self.path(None if parent is None else parent[row].tolist(), queries) for row in range(count)]
        for row, path in enumerate(paths, first):
            kept = [(embeddings[row - first, i], int(positions[row - first, i])) for i in path]
            self.rows[row].entries += kept
            self.rows[row].found += [found[row - first, i] for i in path]
        most = max(map(len, paths))
        padded = [path + [0] * (most - len(path)) for path in paths]
        for cache in self.caches:
            cache.commit([len(path) for path in paths], padded if tree else None)

    def path(self, parent: list[int] | None, queries: int) -> list[int]:
        """Which entries of a call a row commits."""
        if parent is None:
            return list(range(self.pick(0, queries)))
        return tiny.path_to(parent, self.pick(-1, queries - 1))

    def run(self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None) -> Tensor:
        """What the native step gives, side by side, after a comparison with the modules."""
        both = []
        for way, cache in zip(self.ways, self.caches):
            self.trunk.native = way
            both.append(self.side_by_side(self.trunk.extend(embeddings, positions, ancestors, cache, self.taps)))
        for mine, theirs in zip(*both):
            assert apart(mine, theirs) <= CLOSE
        self.trunk.native = self.native
        hidden, logits = both[0][0], both[0][1]
        never = tuple(sorted({self.pick(0, self.trunk.vocab_size - 1) for _ in range(self.pick(0, 2))}))
        masked = logits.index_fill(-1, torch.tensor(never, dtype=torch.long), torch.finfo(logits.dtype).min)
        chosen = self.trunk.choose(hidden, never)
        assert chosen is not None and torch.equal(chosen, masked.argmax(-1))
        self.check_counts(embeddings, positions, ancestors, both[0], never, chosen)
        return torch.cat(both[0], -1)

    def check_counts(
        self, embeddings: Tensor, positions: Tensor, ancestors: Tensor | None, whole: list[Tensor],
        never: tuple[int, ...], chosen: Tensor,
    ) -> None:  # fmt: skip
        """The same call with only the first entries of each row gives the same of them, and no states of the others."""
        rows, queries = positions.shape
        counts = torch.tensor([self.pick(1, queries) for _ in range(rows)])
        there = torch.arange(queries) < counts[:, None]
        [cache] = [cache for way, cache in zip(self.ways, self.caches) if way is self.native]
        states = self.trunk.extend(embeddings, positions, ancestors, cache, self.taps, counts)
        for part, mine in zip(self.side_by_side(states), whole):
            assert torch.equal(part[there], mine[there])
        assert not states.hidden[~there].any()
        some = self.trunk.choose(whole[0], never, counts)
        assert some is not None and torch.equal(some, chosen.where(there, 0))

    def side_by_side(self, states: States) -> list[Tensor]:
        """Final states, logits and taps of a call, each [B, Q, n]."""
        taps = [] if states.taps is None else [states.taps.flatten(2)]
        return [states.hidden, self.trunk.unembed(states.hidden), *taps]

    def select(self) -> None:
        """Keep some rows in another order."""
        order = torch.randperm(len(self.rows), generator=self.rng).tolist()
        kept = order[: self.pick(1, len(order))]
        self.rows = [self.rows[row] for row in kept]
        for cache in self.caches:
            cache.select(kept)

    def copy(self) -> None:
        """Copy some rows and append the copies."""
        taken = [self.pick(0, len(self.rows) - 1) for _ in range(self.pick(1, 3))]
        self.rows += [self.rows[row].copy() for row in taken]
        for cache in self.caches:
            cache.join(cache.take(taken))

    def rewind(self) -> None:
        """Drop the last entries of some rows."""
        lengths = [self.pick(max(0, len(row.entries) - 3), len(row.entries)) for row in self.rows]
        for row, length in zip(self.rows, lengths):
            del row.entries[length:], row.found[length:]
        for cache in self.caches:
            cache.rewind(lengths)

    def live(self, events: int) -> None:
        """Let so many things happen."""
        self.join()
        for _ in range(events):
            what = self.pick(0, 9)
            if what == 0:
                self.select()
            elif what == 1:
                self.copy()
            elif what == 2:
                self.rewind()
            elif what == 3 and len(self.rows) < 17:
                self.join()
            elif what == 4:
                first = self.pick(0, len(self.rows) - 1)
                self.focus(first, self.pick(first + 1, len(self.rows)))
                self.extend(self.pick(1, 4))
                self.focus(0, len(self.rows))
            else:
                self.extend(self.pick(1, 9), tree=what > 6)
        self.check_slots()

    def check_slots(self) -> None:
        """The committed keys and values of both caches agree."""
        lengths = self.caches[0].known
        assert lengths == self.caches[1].known == [len(row.entries) for row in self.rows]
        for mine, theirs in zip(self.caches[0].layers, self.caches[1].layers):
            for row, length in enumerate(lengths):
                for part in ("keys", "values"):
                    slots = [getattr(layer, part)[row, :, :length] for layer in (mine, theirs)]
                    assert apart(*slots) <= CLOSE

    def alone(self, row: Row, width: int = 1) -> Tensor:
        """What the native step gives for a row's entries without other rows, `width` entries a call."""
        self.trunk.native = self.native
        cache = self.trunk.new_cache(0)
        first = torch.zeros(1, dtype=torch.long)
        memory = None if row.memory is None else row.memory[None]
        self.trunk.join(cache, Prompt(self.some(1, 1, 1), first[:, None], first, first, memory))
        return torch.cat([self._piece(cache, row, at, width) for at in range(0, len(row.entries), width)])

    def _piece(self, cache: RaggedCache, row: Row, at: int, width: int) -> Tensor:
        some = row.entries[at : at + width]
        embeddings, positions = torch.stack([x for x, _ in some]), torch.tensor([n for _, n in some])
        states = self.trunk.extend(embeddings[None], positions[None], None, cache, self.taps)
        cache.commit([len(some)])
        return torch.cat(self.side_by_side(states), -1)[0]
