"""Acceptance by groups: tokens of one group, such as acoustically similar ones, count as equal (Yanuka et al., arXiv
2511.13732)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from speechmtp.config import Range
from speechmtp.decoding.rules.contract import AcceptanceRule, NodewiseRule
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.state import Draws
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft


@dataclass(frozen=True, eq=False)
class Groups(Ratio):
    """`Ratio` on the distributions of groups: a drafted token stands for any member of its group. `groups` [V] int64 is
    the group number of each token, 0 or more; ConfigError otherwise. The groups of the output follow the trunk's
    distribution, as long as the trunk does not distinguish the members of a group; the members do not."""

    groups: Tensor
    name: ClassVar[str] = "groups"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.groups)

    @cached_property
    def count(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    def greedy(self) -> AcceptanceRule:
        """The rule by which a token stays if it is in the group of the trunk's argmax token."""
        return GroupMatch(self.groups)

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """`Ratio.compare` on groups; what is left of a group is shared among its members in proportion to `r`."""
        groups = _on(self.groups, r)
        coarse, drafted = (None if probs is None else self._sums(probs.to(r.dtype), groups) for probs in (r, q))
        assert coarse is not None
        group = torch.where(token >= 0, groups[token.clamp_min(0)], -1)
        chance, left = super().compare(coarse, drafted, group)
        share = left / coarse.clamp_min(torch.finfo(r.dtype).tiny)
        return chance, r * share[..., groups]

    def _sums(self, probs: Tensor, groups: Tensor) -> Tensor:
        """Probabilities [.., G] of the groups."""
        return probs.new_zeros(*probs.shape[:-1], self.count).index_add_(-1, groups, probs)


@dataclass(frozen=True, eq=False)
class GroupMatch(NodewiseRule):
    """A drafted token stays if it is in the group of the trunk's argmax token, which includes the shared noise in
    sampling."""

    groups: Tensor
    name: ClassVar[str] = "groups"
    draws: ClassVar[Draws] = "shared"

    def __post_init__(self) -> None:
        _check(self.groups)

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Whether the node is in the group of the argmax token after its parent."""
        groups = _on(self.groups, target)
        choice = groups[target.argmax(-1)].gather(1, draft.parent + 1)
        return (choice == groups[draft.tokens.clamp_min(0)]) & (draft.tokens >= 0)


@dataclass(frozen=True)
class AlikeGroups(AcceptanceRule):
    """`Groups` of the tokens whose embeddings have a cosine similarity above `similarity`; `for_trunk` makes the rule
    for a trunk."""

    name: ClassVar[str] = "groups"
    similarity: Annotated[float, Range(-1, 1)] = 0.6

    def for_trunk(self, trunk: Trunk) -> AcceptanceRule:
        """The rule for this trunk's tokens; groups are computed once per trunk and similarity."""
        known = _FOUND.setdefault(trunk, {})
        if self.similarity not in known:
            known[self.similarity] = alike_groups(trunk.embed(_all_ids(trunk)), self.similarity)
        return Groups(known[self.similarity])

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """Raise ShapeError: without a trunk there are no groups."""
        raise ShapeError("groups: no trunk, expected one; call for_trunk first")


_FOUND: WeakKeyDictionary[Trunk, dict[float, Tensor]] = WeakKeyDictionary()


def _all_ids(trunk: Trunk) -> Tensor:
    return torch.arange(trunk.vocab_size, device=trunk.unembedding().weight.device)


def alike_groups(vectors: Tensor, similarity: float) -> Tensor:
    """Group numbers [V] int64 of `vectors` [V, C] by single linkage: two vectors share a group if a chain of pairs with
    a cosine above `similarity` connects them. Groups are numbered in the order of their first members. ShapeError if
    `vectors` is not [V, C] with at least one row, ConfigError if `similarity` is not from -1 to 1."""
    if vectors.ndim != 2 or not len(vectors):
        raise ShapeError(f"groups: vectors {list(vectors.shape)}, expected [V, C]; give one vector a token")
    if not -1 <= similarity <= 1:
        raise ConfigError(f"groups: similarity={similarity}, expected a number from -1 to 1")
    unit = torch.nn.functional.normalize(vectors.detach().to(torch.promote_types(vectors.dtype, torch.float32)))
    size = len(unit)
    label = torch.arange(size, device=unit.device)
    while True:  # the smallest label spreads through its group, at least twice as far in every round
        near = [torch.where(part @ unit.T > similarity, label, size).amin(1) for part in unit.split(1024)]
        found = torch.minimum(label, torch.cat(near))
        found = found[found]
        if torch.equal(found, label):
            return label.unique(return_inverse=True)[1]
        label = found


def _check(groups: Tensor) -> None:
    if groups.dtype != torch.int64 or groups.ndim != 1 or not len(groups) or int(groups.min()) < 0:
        raise ConfigError(
            f"groups: {list(groups.shape)} of {groups.dtype}, expected int64 [V] of 0 or more; number the groups"
        )


def _on(groups: Tensor, probs: Tensor) -> Tensor:
    """The groups on the device of `probs`; ShapeError if they are for another vocabulary."""
    if len(groups) != probs.shape[-1]:
        raise ShapeError(f"groups: of {len(groups)} tokens, expected {probs.shape[-1]}; make them for this vocabulary")
    return groups.to(probs.device)
