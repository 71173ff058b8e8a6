"""Logits of all depths, or of more rows than a chunk, are never made, in the forward or in the backward pass."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from speechmtp.heads.block import BlockHeadsConfig
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.hydra import HydraHeadsConfig
from speechmtp.heads.joint import JointHeadsConfig
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.linear import LinearHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import FAMILIES, HeadsConfig
from speechmtp.heads.vocalnet import VocalnetHeadsConfig
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.training import losses
from speechmtp.training.losses import Kind, MultiTokenConfig
from speechmtp.training.multi_token import Sequences, multi_token_loss

VOCAB, CHUNK, RANK = 503, 8, 2  # a prime: no other axis has its size
MAKE: dict[str, Callable[[int], HeadsConfig]] = {
    "latent": LatentHeadsConfig,
    "latent-taps": lambda d: LatentHeadsConfig(d, taps=(0, 1)),
    "linear": LinearHeadsConfig,
    "residual": ResidualHeadsConfig,
    "residual-own": lambda d: ResidualHeadsConfig(d, unembedding="own"),
    "layer": LayerHeadsConfig,
    "chain": ChainHeadsConfig,
    "chain-plain": lambda d: ChainHeadsConfig(d, checkpoint=False),
    "chain-ttt": lambda d: ChainHeadsConfig(d, attention="ttt"),
    "hydra": HydraHeadsConfig,
    "vocalnet": VocalnetHeadsConfig,
    "vocalnet-shared": lambda d: VocalnetHeadsConfig(d, unembedding="shared"),
    "joint": lambda d: JointHeadsConfig(d, rank=RANK),
    "block": lambda d: BlockHeadsConfig(d, chunk=8),
    "block-gru": lambda d: BlockHeadsConfig(d, correction="gru", chunk=8),
}


@dataclass
class Found:
    """Numbers in logits: of the largest tensor, and of all that stood at once; `saved` of the largest kept for the
    backward pass outside of what is computed again."""

    largest: int = 0
    standing: int = 0
    saved: int = 0


class Watch(TorchDispatchMode):
    """Sees every tensor that is made and when it is freed; counts those with an axis of the vocabulary, but neither
    views of `weights` nor what has their shape, as gradients have."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        shapes = {tuple(w.shape) for w in weights}
        shapes |= {shape[1:] for shape in shapes}  # a depth's
        self.weights, self.found, self._now = shapes | {shape[::-1] for shape in shapes}, Found(), 0
        self._known = {w.untyped_storage()._cdata for w in weights}

    def size(self, tensor: Tensor) -> int:
        """Numbers in it if it holds logits, else 0."""
        shape = tuple(tensor.shape)
        return tensor.numel() if VOCAB in shape and shape not in self.weights and tensor.dtype.is_floating_point else 0

    def keep(self, tensor: Tensor) -> Tensor:
        """Note what is saved for the backward pass."""
        self.found.saved = max(self.found.saved, self.size(tensor))
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what came out of it."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (size := self.size(tensor)):
                storage = tensor.untyped_storage()
                if storage._cdata in self._known:  # a view
                    continue
                self._known.add(storage._cdata)
                weakref.finalize(storage, self._free, storage._cdata, size)
                self._now += size
                self.found.largest = max(self.found.largest, size)
                self.found.standing = max(self.found.standing, self._now)
        return out

    def _free(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._now -= size


def trunk() -> Trunk:
    """A causal LM of VOCAB tokens."""
    with torch.random.fork_rng():
        built = build_trunk(ScratchTrunkConfig(width=tiny.WIDTH, layers=2, heads=2, ff_width=32), VOCAB)
    tiny.randomise(built, 0)
    return built


def watched(config: HeadsConfig, rows: int, loss: MultiTokenConfig, frozen: bool = False) -> Found:
    """What a training step over `rows` rows of 12 tokens makes of logits."""
    model = trunk()
    heads = tiny.random_heads(config, 1, model.shape)
    ids = torch.randint(VOCAB, (rows, 12), generator=tiny.generator(2))
    places = torch.arange(12).expand_as(ids)
    watch = Watch([*model.parameters(), *heads.parameters()])
    with watch, torch.autograd.graph.saved_tensors_hooks(watch.keep, lambda kept: kept):
        batch = Sequences(model.embed(ids), places, ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool))
        multi_token_loss(model, heads, batch, loss, frozen=frozen)[0].backward()
    return watch.found


@pytest.fixture(autouse=True)
def _posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """`joint` cuts by a number of logits."""
    monkeypatch.setattr("speechmtp.heads.joint._LOGITS", CHUNK * RANK * VOCAB)


def test_every_family_is_watched() -> None:
    assert {MAKE[name](1).kind for name in MAKE} == {family.kind for family in FAMILIES}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "kind", "frozen"),
    [(name, "ce", False) for name in MAKE]
    + [(name, "ce", True) for name in ("latent", "chain", "joint", "block")]
    + [(name, "lk_hybrid", False) for name in ("latent", "chain", "joint")],
)
def test_logits_stand_for_a_chunk_of_rows_whatever_the_rows_and_depths(name: str, kind: Kind, frozen: bool) -> None:
    """Neither as one tensor nor as many that stand together, in the forward pass or in the backward pass."""
    loss = MultiTokenConfig(kind=kind, smoothing=0.1, chunk=CHUNK)
    most = CHUNK * VOCAB * (RANK if name == "joint" else 1)
    few, many = watched(MAKE[name](1), 2, loss, frozen), watched(MAKE[name](3), 4, loss, frozen)
    for found in (few, many):
        assert found.largest == most and found.saved == 0
    assert many.standing <= 1.01 * few.standing


def test_what_is_forbidden_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chunks whole depths are made; without computing them again those of all depths stay."""
    rows, whole = 5 * 11, VOCAB * (5 * 11 + 5 * 10 + 5 * 9)
    unchunked = watched(ChainHeadsConfig(2), 5, MultiTokenConfig(chunk=1000))
    assert unchunked.largest == rows * VOCAB
    once: Callable[..., Tensor] = lambda run, *rows, **_: run(*rows)  # noqa: E731
    monkeypatch.setattr(losses, "checkpoint", once)
    kept = watched(ChainHeadsConfig(2), 5, MultiTokenConfig(chunk=CHUNK))
    assert kept.largest == kept.saved == CHUNK * VOCAB and kept.standing > whole
