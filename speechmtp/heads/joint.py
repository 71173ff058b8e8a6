"""A joint distribution over the block: a mixture of r products of distributions, one a depth.

q(x_{t+2}..x_{t+1+D} | h) = sum_a w_a prod_d p_a^{(d)}(x_{t+1+d}), a rank-r CP decomposition of the table of all blocks
(arXiv 2410.17765). p_a^{(d)} = softmax(U A_{a,d} h) with the trunk's unembedding U, w = softmax(W h + b); depth 0 stays
the trunk's own. Level d's distribution given the tokens so far is the mixture under the posterior of its component,
pi_a ~ w_a prod_{k<d} p_a^{(k)}(x_k): a true conditional, so that the sum of the depths' cross-entropies is the block's
exact likelihood. With r = 1 the heads are those of `latent`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechmtp.errors import ConfigError
from speechmtp.heads.contract import FamilyConfig, HeadState, IndependentHeads, TrainBatch, TrunkFace, Unembed, picked
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.models.shape import TrunkShape

_NOISE = 1e-3  # tells components apart at the start; relative to the state
_LOGITS = 1 << 24  # at most so many logits stand in memory for the posterior


@dataclass(frozen=True)
class JointHeadsConfig(FamilyConfig):
    """`rank` components; `balance` weighs the term that keeps all of them in use (0: none)."""

    kind: Literal["joint"] = "joint"
    rank: int = 4
    balance: float = 0.1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"heads: rank {self.rank}, expected 1 or more")
        if self.balance < 0:
            raise ConfigError(f"heads: balance {self.balance}, expected 0 or more")


@dataclass
class JointState(HeadState):
    """`posterior` [B, P, r]: log posterior of the component at each node of the last level asked for."""

    posterior: Tensor | None = None

    def pick(self, rows: Tensor) -> None:
        """Keep these rows of all that is replaced."""
        super().pick(rows)
        self.posterior = picked(self.posterior, rows)

    def join(self, other: Any) -> None:
        """Another state's rows behind these."""
        super().join(other)
        self.posterior = None  # of a draft that is over


class JointHeads(IndependentHeads):
    """r components whose depths are independent; tied together by which component it is.

    Features [.., r C + r] of level d are the components' features, then their log posterior.
    """

    one_pass = False
    independent = False
    state_type = JointState

    def __init__(self, config: JointHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        self.rank = config.rank
        noise = torch.randn(
            config.depth, config.rank, shape.width, shape.width, generator=torch.Generator().manual_seed(0)
        )
        noise[:, 0] = 0  # equal components would stay equal
        self.weight = nn.Parameter(torch.eye(shape.width) + noise * (_NOISE / shape.width**0.5))
        self.gate = nn.Linear(shape.width, config.rank)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def start_from(self, trunk: TrunkFace) -> None:
        """Nothing to copy: the unembedding is shared."""

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """The components' features [..., r C] of depth d from fused trunk states [..., C]."""
        return torch.einsum("...c,rec->...re", hidden, self.weight[d - 1]).flatten(-2)

    def prior(self, hidden: Tensor) -> Tensor:
        """log w [..., r] of fused trunk states [..., C]."""
        out: Tensor = self.gate(hidden).log_softmax(-1)
        return out

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Log-probabilities [..., V] of depth d given the tokens before."""
        parts, posterior = features[..., : -self.rank], features[..., -self.rank :]
        log_probs = unembed(parts.unflatten(-1, (self.rank, -1))).log_softmax(-1)
        return (log_probs + posterior[..., None]).logsumexp(-2)

    # Training.

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Depth by depth; the posterior learns the sample's own tokens and stays as it is where they end."""
        if not self.depth:
            return
        hidden = batch.at_anchors(self.fused(batch.states))
        labels = batch.at_anchors(shifted_labels(batch.ids, batch.segments, self.depth))
        posterior = self.prior(hidden)
        for d in range(1, self.depth + 1):
            parts = self.depth_features(hidden, d)
            yield torch.cat([parts, posterior], -1)
            if d < self.depth:
                places = self.places(labels[..., d])
                said = self._log_probabilities(parts, places, batch.unembed)
                posterior = (posterior + said).log_softmax(-1)

    def _log_probabilities(self, parts: Tensor, places: Tensor, unembed: Unembed) -> Tensor:
        """log p_a(y) [B, A, r] at `places` [B, A] of features [B, A, r C], 0 where a place is negative.

        In chunks, each computed again in the backward pass: logits [.., r, V] of all depths would not fit.
        """
        rows = places >= 0
        wanted, index = parts[rows], places[rows]
        size = max(1, _LOGITS // (self.rank * self.vocab_size))
        said = []
        for start in range(0, len(index), size):
            part = (wanted[start : start + size], index[start : start + size], unembed)
            again = torch.is_grad_enabled()
            said.append(checkpoint(self._say, *part, use_reentrant=False) if again else self._say(*part))
        if not said:
            return parts.new_zeros(*places.shape, self.rank)
        found = torch.cat(said)
        return found.new_zeros(*places.shape, self.rank).index_put((rows,), found)

    def _say(self, parts: Tensor, places: Tensor, unembed: Unembed) -> Tensor:
        """log p_a(y) [N, r] at `places` [N] of features [N, r C]."""
        logits = unembed(parts.unflatten(-1, (self.rank, -1)))
        chosen = logits.gather(-1, places[:, None, None].expand(-1, self.rank, 1))[..., 0]
        return chosen - logits.logsumexp(-1)

    def regulariser(self, batch: TrainBatch) -> Tensor | None:
        """Load balance: `balance` * KL(u, m), u uniform, m the mean of w over labelled anchors (tokens whose
        x_{t+2}, the first head's, is of the same sample); zero iff m is uniform.

        One number for the batch, to be counted once a labelled anchor (as a mean cross-entropy is). In this
        direction of KL a component that is never used still gets a gradient.
        """
        if self.rank == 1 or not self.depth or not self.config.balance:
            return None
        labels = shifted_labels(batch.ids, batch.segments, 1)[..., 1]
        asked = batch.at_anchors((labels != IGNORED) & (batch.ids >= 0))
        prior = self.prior(batch.at_anchors(self.fused(batch.states))[asked])
        if not len(prior):
            return prior.sum()
        log_mean = prior.logsumexp(0) - math.log(len(prior))
        loss: Tensor = self.config.balance * (-math.log(self.rank) - log_mean.mean())
        return loss

    # Decoding.

    def expand(self, state: HeadState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Features [B, P, r C + r] of level d: those of the row, with each node's posterior."""
        assert isinstance(state, JointState) and state.hidden is not None
        parts = self.all_features(state)
        nodes = tokens.shape[1]
        if d == 1:
            posterior = self.prior(state.hidden)[:, None].expand(-1, nodes, -1)
        else:
            assert state.posterior is not None
            said = self._said(parts[:, d - 2], self.places(tokens), state.unembed)
            above = state.posterior.gather(1, parent.clamp_min(0)[..., None].expand(-1, -1, self.rank))
            posterior = (above + said).log_softmax(-1)
        state.posterior = posterior
        return torch.cat([parts[:, d - 1 : d].expand(-1, nodes, -1), posterior], -1)

    def _said(self, parts: Tensor, places: Tensor, unembed: Unembed) -> Tensor:
        """log p_a(y) [B, P, r] at `places` [B, P] of the rows' features [B, r C], 0 where a place is negative."""
        log_probs = unembed(parts.unflatten(-1, (self.rank, -1))).log_softmax(-1)
        found = log_probs.gather(-1, places.clamp_min(0)[:, None].expand(-1, self.rank, -1)).transpose(1, 2)
        return found.masked_fill((places < 0)[..., None], 0)
