"""Drafts of chained heads in one native call: the tokens and confidences of the heads' own modules."""

from functools import cache
from typing import Any

import native_models
import pytest
import tiny
import torch
from native_models import MODELS, NATIVE
from native_scenes import CLOSE, apart
from torch import Tensor

from speechmtp.heads.layered import take_fresh
from speechmtp.heads.native import use_native
from speechmtp.kernels.cpu.chain import NativeChain
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk
from speechmtp.types import States

SCENES = 25  # of each family
# Shortlists and none, taps, both orders: what heads can be.
KINDS: tuple[dict[str, Any], ...] = (
    {}, {"shortlist": 7}, {"taps": (1,), "order": "hidden_first"}, {"taps": (0, 1), "shortlist": 11},
)  # fmt: skip


def head_set(trunk: Trunk, number: int, depth: int = 5) -> Any:
    """Heads with random weights for a trunk, drafting natively, with random ids in their shortlist."""
    options = dict(KINDS[number % len(KINDS)])
    if options.get("shortlist", 0) > trunk.vocab_size:
        options["shortlist"] = trunk.vocab_size - 1
    heads = tiny.heads("chain", depth, number, trunk.shape, attention="ttt", **options).float().eval()
    if heads.shortlist is not None:
        order = torch.randperm(trunk.vocab_size, generator=tiny.generator(number))
        heads.shortlist = order[: len(heads.shortlist)].clone()
    native_models.as_stored(heads, native_models.FORMS[number % 4], number)
    use_native(heads, trunk)
    assert heads.native is not None, heads.native_problem
    return heads


@cache
def built(family: str, number: int) -> tuple[Trunk, Any, NativeChain]:
    """A trunk of the family, heads of it, and their native form."""
    trunk = native_models.native(family, number)[0]
    heads = head_set(trunk, number)
    return trunk, heads, heads.native


class Scene:
    """Rows of a trunk with the heads' state of each way of drafting."""

    def __init__(self, trunk: Trunk, heads: Any, native: NativeChain, seed: int) -> None:
        self.trunk, self.heads, self.native, self.rng = trunk, heads, native, tiny.generator(seed)
        self.ways = (self.native, None)
        self.states: list[Any] = []
        self.far = (30, 700)[seed % 2] if trunk.last_position is None else trunk.last_position - 8
        self.steps = self.pick(1, 7)
        self.positions = torch.zeros(0, dtype=torch.long)

    def pick(self, low: int, high: int) -> int:
        """A random number from `low` to `high`."""
        return int(torch.randint(low, high + 1, (), generator=self.rng))

    def called(self, rows: int, queries: int) -> tuple[States, Tensor, Tensor]:
        """States that a trunk might give, the embeddings and positions that it read."""
        width, count = self.trunk.width, len(self.heads.taps)
        taps = torch.randn(rows, queries, count, width, generator=self.rng)
        inputs = torch.randn(rows, queries, width, generator=self.rng)
        return States(taps[:, :, -1], taps), inputs, torch.randint(0, self.far, (rows, queries), generator=self.rng)

    def started(self) -> list[Any]:
        """A state of new rows for each way, behind the call of their prompts."""
        rows = self.pick(1, 4)
        memory, lengths = None, None
        if isinstance(self.trunk, Seq2SeqTrunk):
            lengths = torch.randint(1, self.steps + 1, (rows,), generator=self.rng)
            lengths[0] = self.steps
            memory = torch.randn(rows, self.steps, self.trunk.width, generator=self.rng)
        made = []
        for way in self.ways:
            self.heads.native = way
            made.append(self.heads.start(rows, self.trunk, None, memory, lengths))
        self.advance(made, rows, self.pick(1, 6), low=1)
        return made

    def advance(self, states: list[Any], rows: int, queries: int, low: int = 0) -> None:
        """Let the heads take in a call of which each row has committed some entries."""
        called, inputs, positions = self.called(rows, queries)
        counts = [self.pick(low, queries) for _ in range(rows)]
        keep = torch.stack([torch.randperm(queries, generator=self.rng).sort().values for _ in range(rows)])
        keep[:, : queries // 2] = keep[:, : queries // 2].flip(1)
        for way, state in zip(self.ways, states):
            self.heads.native = way
            self.heads.advance(state, called, inputs, positions, keep, torch.tensor(counts), counts)
        fresh = take_fresh(self.heads.fused, called, inputs, positions, keep, torch.tensor(counts))
        mine = states[0].fresh
        assert torch.equal(mine.positions, fresh.positions) and torch.equal(mine.nexts, fresh.nexts)
        assert apart(mine.hidden, fresh.hidden) <= CLOSE

    def draft(self, theta: float | None, product: bool) -> None:
        """Compare drafts of a random depth behind random tokens, and their confidences."""
        depth, rows = self.pick(1, self.heads.depth), len(self.states[0].cache.known)
        base = torch.randint(0, self.trunk.vocab_size, (rows,), generator=self.rng)
        self.heads.native, row = self.native, self.pick(0, rows - 1)
        alone = self.states[0].take([row])
        found = self.heads.draft_chain(self.states[0], base, depth, theta, product)
        assert found is not None
        own = self.heads.draft_chain(alone, base[row : row + 1], depth, theta, product)
        for mine, theirs in zip(own, found):  # the same bits without the other rows
            assert torch.equal(mine[0], theirs[row, : mine.shape[1]])
        self.heads.native = None
        assert self.heads.draft_chain(self.states[1], base, depth, theta, product) is None
        tokens, confidence = found
        drafted = tokens.shape[1]
        measured = confidence.cumprod(1) if product else confidence
        sure = int((measured >= (theta or 0)).long().cumprod(1).sum(1).max())
        assert sure in (depth - 1, depth) if drafted == depth else sure == drafted - 1
        self.check(base, tokens, confidence)

    def check(self, base: Tensor, tokens: Tensor, confidence: Tensor) -> None:
        """The tokens [B, D'] are those that the heads' own modules choose after the ones before, but for near-ties."""
        before, places = torch.cat([base[:, None], tokens], 1), self.heads.places(tokens)
        for d in range(1, tokens.shape[1] + 1):
            above = before[:, d - 1 : d]
            features = self.heads.expand(self.states[1], d, above, torch.zeros_like(above))
            logits = self.heads.logits(features, d, self.states[1].unembed)[:, 0]
            taken = logits.gather(1, places[:, d - 1 : d])
            assert float((logits.amax(1, keepdim=True) - taken).max()) <= CLOSE
            likely = (taken - logits.logsumexp(1, keepdim=True)).exp()
            assert torch.allclose(confidence[:, d - 1 : d], likely, rtol=CLOSE, atol=1e-6)

    def change(self) -> None:
        """Let rows leave, be copied, or join."""
        rows, what = len(self.states[0].cache.known), self.pick(0, 3)
        if what == 0:
            kept = torch.randperm(rows, generator=self.rng).tolist()[: self.pick(1, rows)]
            for state in self.states:
                state.select(kept)
        elif what == 1:
            taken = [self.pick(0, rows - 1) for _ in range(self.pick(1, 3))]
            for state in self.states:
                state.join(state.take(taken))
        elif what == 2:
            for state, new in zip(self.states, self.started()):
                state.join(new)


@NATIVE
@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "qwen3", "moonshine", "whisper"])
def test_drafts_are_those_of_the_modules(family: str) -> None:
    for seed in range(SCENES):
        scene = Scene(*built(family, seed % MODELS), seed)
        scene.states = scene.started()
        theta = (None, None, 0.1, 0.3)[scene.pick(0, 3)]
        for _ in range(5):
            if scene.pick(0, 4):  # now and then two calls of the trunk without a draft between
                scene.draft(theta, bool(scene.pick(0, 1)))
            scene.advance(scene.states, len(scene.states[0].cache.known), scene.pick(1, 5))
            scene.change()
        for mine, theirs in zip(*[state.cache.layers for state in scene.states]):
            for row, length in enumerate(scene.states[0].cache.known):
                assert apart(mine.keys[row : row + 1, :, :length], theirs.keys[row : row + 1, :, :length]) <= CLOSE
                assert apart(mine.values[row : row + 1, :, :length], theirs.values[row : row + 1, :, :length]) <= CLOSE
