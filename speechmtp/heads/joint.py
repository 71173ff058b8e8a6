"""A joint distribution over the drafted tokens: a mixture of r products of one distribution per depth.

q(x_{t+2}..x_{t+1+D} | h) = sum_a w_a prod_d p_a^{(d)}(x_{t+1+d}), a rank-r CP decomposition of the table of all blocks
(arXiv 2410.17765). p_a^{(d)} = softmax(U A_{a,d} h) with the trunk's unembedding U, w = softmax(W h + b); depth 0 is
the trunk's own. The distribution of level d given the tokens so far is the mixture weighted by the posterior of the
component, pi_a ~ w_a prod_{k<d} p_a^{(k)}(x_{t+1+k}). It is the exact conditional, so that the sum of the depths'
cross-entropies is the exact negative log likelihood of the block. With r = 1 the heads are those of `latent`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechmtp.config import Count, Range
from speechmtp.heads.contract import FamilyConfig, HeadState, IndependentHeads, TrainBatch, TrunkFace, Unembed, picked
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.models.shape import TrunkShape

_NOISE = 1e-3  # initial difference between components, relative to the state
_LOGITS = 1 << 24  # the most logits computed at once for the posterior


@dataclass(frozen=True)
class JointHeadsConfig(FamilyConfig):
    """`rank` components; `balance` is the weight of the load-balancing loss (0: none)."""

    kind: Literal["joint"] = "joint"
    rank: Count = 4
    balance: Annotated[float, Range(0)] = 0.1


@dataclass
class JointState(HeadState):
    """`posterior` [B, P, r]: log posterior of the component at each node of the last expanded level."""

    posterior: Tensor | None = None

    def pick(self, rows: Tensor) -> None:
        """Keep only these rows."""
        super().pick(rows)
        self.posterior = picked(self.posterior, rows)

    def join(self, other: Any) -> None:
        """Append the rows of another state."""
        super().join(other)
        self.posterior = None  # belongs to a finished draft


class JointHeads(IndependentHeads):
    """r components whose depths are independent given the component.

    Features [.., r C + r] of level d are the components' features, then the components' log posterior.
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
        noise[:, 0] = 0  # the others get noise, since equal components would stay equal
        self.weight = nn.Parameter(torch.eye(shape.width) + noise * (_NOISE / shape.width**0.5))
        self.gate = nn.Linear(shape.width, config.rank)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def start_from(self, trunk: TrunkFace) -> None:
        """Copy nothing: the unembedding is shared."""

    def depth_features(self, hidden: Tensor, d: int) -> Tensor:
        """Return the components' features [..., r C] of depth d from fused trunk states [..., C]."""
        return torch.einsum("...c,rec->...re", hidden, self.weight[d - 1]).flatten(-2)

    def prior(self, hidden: Tensor) -> Tensor:
        """Return log w [..., r] of fused trunk states [..., C]."""
        out: Tensor = self.gate(hidden).log_softmax(-1)
        return out

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the log probabilities [..., V] of depth d given the tokens before it."""
        parts, posterior = features[..., : -self.rank], features[..., -self.rank :]
        log_probs = _log_probs(unembed(parts.unflatten(-1, (self.rank, -1))))
        return (log_probs + posterior[..., None]).logsumexp(-2)

    # Training.

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute depth by depth; true tokens update the posterior, which no longer changes after the sample's end."""
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
        """Return log p_a(y) [B, A, r] for token indices `places` [B, A] and features [B, A, r C]; 0 for negative ones.

        Computed in chunks that are recomputed in the backward pass, since logits [.., r, V] would not fit in memory.
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
        """Return log p_a(y) [N, r] for token indices `places` [N] and features [N, r C]."""
        logits = unembed(parts.unflatten(-1, (self.rank, -1)))
        chosen = logits.gather(-1, places[:, None, None].expand(-1, self.rank, 1))[..., 0]
        return chosen - logits.logsumexp(-1)

    def regulariser(self, batch: TrainBatch) -> Tensor | None:
        """Return the load-balancing loss `balance` * KL(u, m), zero iff m is uniform; None if it is off.

        u is uniform, m the mean of w over labelled anchors (tokens whose x_{t+2}, the first head's target, belongs to
        the same sample). It is one number for the batch, counted once per labelled anchor (like a mean cross-entropy).
        In this direction of KL, a component that is never used still gets a gradient.
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
        """Return features [B, P, r C + r] of level d: those of the row, and each node's log posterior."""
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
        """Return log p_a(y) [B, P, r] for token indices `places` [B, P] and features [B, r C]; 0 for negative ones."""
        log_probs = _log_probs(unembed(parts.unflatten(-1, (self.rank, -1))))
        found = log_probs.gather(-1, places.clamp_min(0)[:, None].expand(-1, self.rank, -1)).transpose(1, 2)
        return found.masked_fill((places < 0)[..., None], 0).to(parts.dtype)


def _log_probs(logits: Tensor) -> Tensor:
    """Return log probabilities [..., V] in float32 at least."""
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
