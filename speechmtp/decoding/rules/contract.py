"""Acceptance rules as distributions over (how much of a draft is kept, what follows it).

`distributions(target, draft)` gives `stop` [B, P + 1], the probability that the base token (slot 0) or node i (slot i +
1) is the last one kept, and `follow` [B, P + 1, V], the distribution of the next token there. Deterministic rules give
one-hot distributions; `draw_outcome` draws from them, or takes the likeliest where nothing is drawn.

A rule is one file with a frozen dataclass, whose fields are its options, and one line in `table.py`. Rules that say of
each node whether it may stay derive from `NodewiseRule`, or from `ArgmaxRule` if the trunk's first choices are all that
they look at; rules that compare distributions derive from `Ratio` or stand on their own.
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
    """A pure rule; configuration only, a frozen dataclass whose fields are its options.

    `name` is what it is called in the table of rules. `exact` rules follow the trunk's own distribution. `draws` says
    how drafts for the rule are drawn where tokens are drawn at all: with `shared` noise the loop adds the trunk's noise
    to the target, and the likeliest token is taken. `by_argmax` rules look at nothing but the trunk's first choices.

    What it needs of a drafter is said here too: `instead_on_trees` names the rule to take for trees by one that judges
    chains only, `needs_probabilities` says that drafts must come with their probabilities.
    """

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = False
    draws: ClassVar[Draws] = "best"
    by_argmax: ClassVar[bool] = False
    instead_on_trees: ClassVar[str] = ""
    needs_probabilities: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """ConfigError for an option that is not allowed."""
        check_fields(self, self.name or type(self).__name__)

    def judge(self, choices: Tensor, draft: Draft) -> Accepted:
        """What is kept and what follows, of the trunk's first choices [B, P + 1]; for rules `by_argmax`."""
        raise NotImplementedError

    def for_trunk(self, trunk: Trunk) -> "AcceptanceRule":
        """The rule for this trunk; another one than itself where it reads something of the trunk."""
        return self

    @abstractmethod
    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`stop` [B, P + 1] and `follow` [B, P + 1, V] for target logits [B, P + 1, V]."""

    def greedy(self) -> "AcceptanceRule":
        """The rule that takes its place at temperature 0, where nothing is drawn. ConfigError where there is none."""
        return self

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """What is kept and what follows; `drawn` [B] is the output index of the first token that can be emitted."""
        return draw_outcome(*self.distributions(target, draft), draft, noise, drawn)


class NodewiseRule(AcceptanceRule):
    """Rules that keep the deepest path on which every token may stay."""

    @abstractmethod
    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Whether each node may stay if its parent does: bool [B, P], false where absent."""

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot `stop`; what follows is the trunk's distribution, its first choice under shared noise."""
        stop = torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device)
        stop.scatter_(1, deepest(self.kept(target, draft), draft).last[:, None], 1.0)
        return stop, one_hot_best(target) if self.draws == "shared" else probs_of(target)

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """The same as `draw_outcome` of the distributions, which are not built where nothing is drawn."""
        if noise is not None and self.draws != "shared":
            return super().accept(target, draft, noise, drawn)
        slots = deepest(self.kept(target, draft), draft)
        rows = torch.arange(len(target), device=target.device)
        return accepted_to(slots, target[rows, slots.last].argmax(-1), draft)


class ArgmaxRule(NodewiseRule):
    """Rules that look at nothing but the trunk's first choices."""

    by_argmax: ClassVar[bool] = True
    draws: ClassVar[Draws] = "shared"

    @abstractmethod
    def matches(self, choices: Tensor, draft: Draft) -> Tensor:
        """Whether each node may stay if its parent does: bool [B, P], of the first choices [B, P + 1]."""

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """The same of the logits."""
        return self.matches(target.argmax(-1), draft)

    def judge(self, choices: Tensor, draft: Draft) -> Accepted:
        """The deepest path that may stay, and the choice behind it."""
        if not draft.tokens.shape[1]:
            return Accepted(draft.tokens, choices.new_zeros(len(choices)), choices[:, 0])
        slots = deepest(self.matches(choices, draft), draft)
        return accepted_to(slots, choices.gather(1, slots.last[:, None])[:, 0], draft)

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        """As `judge`, of the logits' first choices."""
        return self.judge(target.argmax(-1), draft)


def probs_of(logits: Tensor) -> Tensor:
    """Probabilities [.., V] of logits, in float32 at least."""
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def one_hot_best(target: Tensor) -> Tensor:
    """All on the likeliest token [.., V]."""
    return torch.zeros_like(target).scatter_(-1, target.argmax(-1, keepdim=True), 1.0)


@dataclass(frozen=True)
class Slots:
    """The last slot kept of every row [B] and, of trees, the same on the host, with the parents of all nodes there."""

    last: Tensor
    known: list[tuple[int, list[int]]] | None = None


def tree_refused(rule: AcceptanceRule) -> ConfigError:
    """What a rule for chains says to a tree; `rule` has an `instead_on_trees`."""
    return ConfigError(
        f"{rule.name}: a tree of drafted tokens, expected a chain; use {rule.instead_on_trees} for trees"
    )


def deepest(kept: Tensor, draft: Draft) -> Slots:
    """The deepest node whose whole path is `kept` [B, P]; slot 0, the base token, if there is none."""
    if draft.chain:
        return Slots(kept.cumprod(1).sum(1))
    found = []
    size = kept.shape[1]
    for row in torch.cat([kept.to(draft.parent.dtype), draft.parent], 1).tolist():
        stays, parents = row[:size], row[size:]
        depth, last = [0], 0  # of slots, -1 off the path
        for slot, (stay, above) in enumerate(zip(stays, parents), 1):
            before = depth[above + 1]
            depth.append(before + 1 if stay and before >= 0 else -1)
            if depth[slot] > depth[last]:  # of equally deep ones the first, as drafted
                last = slot
        found.append((last, parents))
    return Slots(torch.tensor([last for last, _ in found], dtype=torch.long, device=kept.device), found)


def draw_outcome(
    stop: Tensor, follow: Tensor, draft: Draft, noise: Noise | None = None, drawn: Tensor | None = None
) -> Accepted:
    """Draw from the two distributions of a rule; without noise, take the likeliest outcome of both.

    `drawn` [B] is the output index of the first token of the call; its uniform picks where the draft stops, Gumbels
    at the index of the last one what follows.
    """
    rows = torch.arange(len(stop), device=stop.device)
    if noise is None:
        last = stop.argmax(1)
        return accepted_to(Slots(last), follow[rows, last].argmax(-1), draft)
    assert drawn is not None
    up_to = stop.double().cumsum(1)
    # The total may miss 1 by rounding, and a slot of probability 0 must not be hit at either end.
    mark = noise.uniform(drawn, ACCEPT)[:, None] * up_to[:, -1:]
    last = (up_to <= mark).sum(1).clamp_max(stop.shape[1] - 1)
    count = last if draft.chain else depth_of(last, draft)
    probs = follow[rows, last]
    gumbel = noise.gumbel((drawn + count)[:, None], probs.shape[-1], FOLLOW)[:, 0]
    return accepted_to(Slots(last), (probs.log() + gumbel.to(probs.dtype)).argmax(-1), draft)


def depth_of(last: Tensor, draft: Draft) -> Tensor:
    """Number of nodes [B] from the root to slot `last` [B]."""
    if draft.chain:
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
