"""Acceptance rules as distributions over (how much of a draft is kept, which token follows it).

`distributions(target, draft)` returns `stop` [B, P + 1], the probability that the base token (slot 0) or node i (slot i
+ 1) is the last one kept, and `follow` [B, P + 1, V], the distribution of the next token there. Deterministic rules
return one-hot distributions; `draw_outcome` samples from them, or takes the most probable outcome in greedy decoding.

A rule is one file with a frozen dataclass, whose fields are its options, and one line in `table.py`. Rules that decide
for each node whether it may stay derive from `NodewiseRule`, or from `ArgmaxRule` if they read only the trunk's argmax
tokens. Rules that compare distributions derive from `Ratio` or directly from `AcceptanceRule`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from speechmtp.config import check_fields
from speechmtp.decoding.noise import ACCEPT, FOLLOW, Noise
from speechmtp.decoding.state import Draws
from speechmtp.errors import ConfigError
from speechmtp.models.trunk import Trunk
from speechmtp.types import Accepted, Draft


class AcceptanceRule:
    """Base class of rules: pure functions, and configuration only, a frozen dataclass whose fields are its options.

    `name` is its name in the table of rules. `exact` rules follow the trunk's own distribution. `draws` says how drafts
    for the rule are sampled, if tokens are sampled at all: with `shared` noise, the trunk's noise is added to the
    target logits and the argmax is taken. `by_argmax` rules read only the trunk's argmax tokens.

    Other attributes say what the rule needs of a drafter: `instead_on_trees` names the rule to use for trees if this
    one accepts chains only, `needs_probabilities` says that drafts must have their probabilities.
    """

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = False
    draws: ClassVar[Draws] = "best"
    by_argmax: ClassVar[bool] = False
    instead_on_trees: ClassVar[str] = ""
    needs_probabilities: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ConfigError for an option that is not allowed."""
        check_fields(self, self.name or type(self).__name__)

    def judge(self, choices: Tensor, draft: Draft) -> Accepted:
        """What is kept and what follows, by the trunk's argmax tokens `choices` [B, P + 1]; only for rules
        `by_argmax`."""
        raise NotImplementedError

    def for_trunk(self, trunk: Trunk) -> "AcceptanceRule":
        """The rule for this trunk; another object than itself if it depends on the trunk."""
        return self

    @abstractmethod
    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`stop` [B, P + 1] and `follow` [B, P + 1, V] for target logits [B, P + 1, V]."""

    def greedy(self) -> "AcceptanceRule":
        """The rule to use in greedy decoding (temperature 0). ConfigError if there is none."""
        return self

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """What is kept and what follows, by the target logits [B, P + 1, V]. `drawn` [B] is the output index of the
        first token that the call can emit; without noise (None) nothing is sampled."""
        return draw_outcome(*self.distributions(target, draft), draft, noise, drawn)


class NodewiseRule(AcceptanceRule):
    """Base class of rules that keep the deepest path on which every token may stay."""

    @abstractmethod
    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Whether each node may stay if its parent does: bool [B, P], false for absent nodes."""

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot `stop`; `follow` is the trunk's distribution, or one-hot at its argmax under shared noise."""
        stop = torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device)
        stop.scatter_(1, deepest(self.kept(target, draft), draft).last[:, None], 1.0)
        return stop, one_hot_best(target) if self.draws == "shared" else probs_of(target)

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """The same as `draw_outcome` of the distributions, which are not built if nothing is sampled."""
        if noise is not None and self.draws != "shared":
            return super().accept(target, draft, noise, drawn)
        slots = deepest(self.kept(target, draft), draft)
        rows = torch.arange(len(target), device=target.device)
        return accepted_to(slots, target[rows, slots.last].argmax(-1), draft)


class ArgmaxRule(NodewiseRule):
    """Base class of rules that read only the trunk's argmax tokens."""

    by_argmax: ClassVar[bool] = True
    draws: ClassVar[Draws] = "shared"

    @abstractmethod
    def matches(self, choices: Tensor, draft: Draft) -> Tensor:
        """Whether each node may stay if its parent does, by the argmax tokens `choices` [B, P + 1]: bool [B, P]."""

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """`matches` of the logits' argmax tokens."""
        return self.matches(target.argmax(-1), draft)

    def judge(self, choices: Tensor, draft: Draft) -> Accepted:
        """The deepest path that may stay, and the argmax token after it."""
        if not draft.tokens.shape[1]:
            return Accepted(draft.tokens, choices.new_zeros(len(choices)), choices[:, 0])
        slots = deepest(self.matches(choices, draft), draft)
        return accepted_to(slots, choices.gather(1, slots.last[:, None])[:, 0], draft)

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """`judge` of the logits' argmax tokens."""
        return self.judge(target.argmax(-1), draft)


def probs_of(logits: Tensor) -> Tensor:
    """Probabilities [.., V] of logits, in float32 at least."""
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def one_hot_best(target: Tensor) -> Tensor:
    """One-hot distributions [.., V] at the most probable token."""
    return torch.zeros_like(target).scatter_(-1, target.argmax(-1, keepdim=True), 1.0)


@dataclass(frozen=True)
class Slots:
    """The last slot kept of every row, `last` [B]; for trees `known` has the same on the host, with the parents of all
    nodes."""

    last: Tensor
    known: list[tuple[int, list[int]]] | None = None


def tree_refused(rule: AcceptanceRule) -> ConfigError:
    """The error of a rule for chains that gets a tree; `rule` must have `instead_on_trees`."""
    return ConfigError(
        f"{rule.name}: a tree of drafted tokens, expected a chain; use {rule.instead_on_trees} for trees"
    )


def deepest(kept: Tensor, draft: Draft) -> Slots:
    """The deepest node whose whole path is `kept` [B, P], as slots; slot 0, the base token, if there is none."""
    if draft.chain:
        return Slots(kept.cumprod(1).sum(1))
    found = []
    size = kept.shape[1]
    for row in torch.cat([kept.to(draft.parent.dtype), draft.parent], 1).tolist():
        stays, parents = row[:size], row[size:]
        depth, last = [0], 0  # the depth of each slot, -1 where its path is not kept
        for slot, (stay, above) in enumerate(zip(stays, parents), 1):
            before = depth[above + 1]
            depth.append(before + 1 if stay and before >= 0 else -1)
            if depth[slot] > depth[last]:  # ties go to the node that was drafted first
                last = slot
        found.append((last, parents))
    return Slots(torch.tensor([last for last, _ in found], dtype=torch.long, device=kept.device), found)


def draw_outcome(
    stop: Tensor, follow: Tensor, draft: Draft, noise: Noise | None = None, drawn: Tensor | None = None
) -> Accepted:
    """Sample from the two distributions of a rule; without noise, take the most probable outcome of both.

    `drawn` [B] is the output index of the first token of the call. The uniform number at this index decides where the
    draft stops; Gumbel noise at the output index of the following token decides that token.
    """
    rows = torch.arange(len(stop), device=stop.device)
    if noise is None:
        last = stop.argmax(1)
        return accepted_to(Slots(last), follow[rows, last].argmax(-1), draft)
    assert drawn is not None
    up_to = stop.double().cumsum(1)
    # The total may miss 1 by rounding, and a slot of probability 0 must never be chosen.
    mark = noise.uniform(drawn, ACCEPT)[:, None] * up_to[:, -1:]
    last = (up_to <= mark).sum(1).clamp_max(stop.shape[1] - 1)
    count = last if draft.chain else depth_of(last, draft)
    probs = follow[rows, last]
    gumbel = noise.gumbel((drawn + count)[:, None], probs.shape[-1], FOLLOW)[:, 0]
    return accepted_to(Slots(last), (probs.log() + gumbel.to(probs.dtype)).argmax(-1), draft)


def depth_of(last: Tensor, draft: Draft) -> Tensor:
    """Number of nodes [B] on the path from the root to slot `last` [B]."""
    if draft.chain or not draft.tokens.shape[1]:  # a tree may have lost all nodes to what may not be said
        return last
    depth = draft.depth.gather(1, (last - 1).clamp_min(0)[:, None])[:, 0] + 1
    return depth.where(last > 0, torch.zeros_like(depth))


def accepted_to(slots: Slots, token: Tensor, draft: Draft) -> Accepted:
    """All nodes from the root to each row's last slot, and the `token` [B] that follows."""
    last = slots.last
    if draft.chain:
        steps = torch.arange(draft.tokens.shape[1], device=last.device)
        return Accepted(torch.where(steps < last[:, None], steps, -1), last, token)
    known = slots.known
    if known is None:
        known = [(slot, parents) for slot, *parents in torch.cat([last[:, None], draft.parent], 1).tolist()]
    paths = []
    for slot, parents in known:
        path, node = list[int](), slot - 1
        while node >= 0:
            path.append(node)
            node = parents[node]
        paths.append(path[::-1])
    longest = max(map(len, paths), default=0)
    padded = [path + [-1] * (longest - len(path)) for path in paths]
    nodes = torch.tensor(padded, dtype=torch.long, device=last.device).view(len(paths), longest)
    return Accepted(nodes, last.new_tensor([len(path) for path in paths]), token)
