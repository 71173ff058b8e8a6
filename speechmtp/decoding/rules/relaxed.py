"""Rules that leave the trunk's distribution on purpose, for longer drafts; each says what it gives up."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from speechmtp.decoding.rules.contract import AcceptanceRule, GreedyMatch, NodewiseRule, probs_of
from speechmtp.decoding.rules.rejection import Ratio, SampleMatch, elders, one_hot
from speechmtp.decoding.state import Draws
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


@dataclass(frozen=True, kw_only=True)
class Typical(NodewiseRule):
    """Typical acceptance (Cai et al., Medusa, arXiv 2401.10774): x stays if p(x) > min(epsilon, delta exp(-H(p))).
    A likely token that nobody drafted cannot win."""

    epsilon: float = 0.09
    delta: float = 0.3

    def __post_init__(self) -> None:
        _require(0 < self.epsilon <= 1, f"typical: epsilon {self.epsilon}, expected a number above 0, at most 1")
        _require(self.delta > 0, f"typical: delta {self.delta}, expected a number above 0")

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Compared in logs."""
        floor = (math.log(self.delta) - entropy(probs_of(target))).clamp_max(math.log(self.epsilon))
        return (log_chance(target, draft) > floor.gather(1, draft.parent + 1)) & (draft.tokens >= 0)


@dataclass(frozen=True)
class Threshold(NodewiseRule):
    """x stays while the trunk's probability of it (`token`), or of all up to it (`product`), is at least theta; the
    second gate of Saon et al., arXiv 2603.11243, token by token."""

    theta: float
    measure: Literal["token", "product"] = "token"

    def __post_init__(self) -> None:
        _require(0 <= self.theta <= 1, f"threshold: theta {self.theta}, expected a number from 0 to 1")
        allowed = ("token", "product")
        _require(self.measure in allowed, f"threshold: measure {self.measure!r}, expected token or product")

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Products run from the base token down."""
        chance = log_chance(target, draft)
        if self.measure == "product":
            chance = along(chance, draft)
        return (chance.exp() >= self.theta) & (draft.tokens >= 0)


@dataclass(frozen=True)
class TopK(NodewiseRule):
    """x stays if it is among the trunk's k likeliest (Stern et al., arXiv 1811.03115, section 5.1)."""

    k: int

    def __post_init__(self) -> None:
        _require(self.k >= 1, f"top-k: k {self.k}, expected 1 or more")

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Ties with the k-th stay; what the trunk excludes does not."""
        least = target.topk(min(self.k, target.shape[-1]), -1).values[..., -1]
        chance = _logit(target, draft)
        return (chance >= least.gather(1, draft.parent + 1)) & (chance > -math.inf) & (draft.tokens >= 0)


@dataclass(frozen=True)
class Distance(NodewiseRule):
    """x stays if its number is at most `most` from that of the trunk's choice (Stern et al., section 5.2): for codes
    in an order."""

    most: int
    draws: ClassVar[Draws] = "shared"

    def __post_init__(self) -> None:
        _require(self.most >= 0, f"distance: most {self.most}, expected 0 or more")

    def kept(self, target: Tensor, draft: Draft) -> Tensor:
        """Near the trunk's choice behind the parent."""
        choice = target.argmax(-1).gather(1, draft.parent + 1)
        return ((choice - draft.tokens).abs() <= self.most) & (draft.tokens >= 0)


@dataclass(frozen=True)
class MinBlock(GreedyMatch):
    """The first `least` drafted tokens of a call stay whatever they are, then greedy match (Stern et al., section
    5.3)."""

    least: int
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require(self.least >= 1, f"min-block: least {self.least}, expected 1 or more")

    def matches(self, best: Tensor, draft: Draft) -> Tensor:
        """Not deep, or the trunk's choice."""
        return super().matches(best, draft) | ((draft.depth < self.least) & (draft.tokens >= 0))


@dataclass(frozen=True)
class JointRatio(AcceptanceRule):
    """Multi-token assisted decoding (Qin et al., arXiv 2407.09722): the longest prefix whose probability under the
    trunk is above tau times that under the drafter stays, even if a shorter one fails. In a tree the drafter's
    likeliest prefix of a depth is the measure for all of that depth, the trunk's likeliest wins. Needs a drafter that
    gives its probabilities, else ConfigError."""

    tau: float = 0.5
    draws: ClassVar[Draws] = "own"

    def __post_init__(self) -> None:
        _require(self.tau > 0, f"joint ratio: tau {self.tau}, expected a number above 0")

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """One-hot `stop`; the trunk's distribution follows."""
        stop = torch.zeros(target.shape[:2], dtype=torch.float64, device=target.device)
        if not draft.tokens.shape[1]:
            return stop + 1, probs_of(target)
        if draft.confidence is None:
            raise ConfigError("joint ratio: a drafter without probabilities, expected one with; use heads or a model")
        here, depth = draft.tokens >= 0, draft.depth
        ours = along(log_chance(target, draft), draft)
        theirs = along(draft.confidence.to(ours.dtype).log(), draft)
        if not draft.chain:
            level = (depth[:, :, None] == depth[:, None, :]) & here[:, None, :]
            theirs = torch.where(level, theirs[:, None], -math.inf).amax(-1)
        passed = here & (ours - theirs > math.log(self.tau))
        reached = torch.where(passed, depth + 1, 0)
        deepest = passed & (reached == reached.amax(1, keepdim=True))
        best = torch.where(deepest, ours, -math.inf).argmax(1)
        last = torch.where(deepest.any(1), best + 1, 0)
        return stop.scatter_(1, last[:, None], 1.0), probs_of(target)


@dataclass(frozen=True)
class Ensemble(Ratio):
    """Ratio against w p + (1 - w) q instead of p, which is the distribution of every token that was drafted for (the
    bonus token is the trunk's own); q is that of a node's first child."""

    weight: float
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require(0 <= self.weight <= 1, f"ensemble: weight {self.weight}, expected a number from 0 to 1")

    def greedy(self) -> AcceptanceRule:
        """There is no mixture to draw from."""
        raise ConfigError(
            "ensemble: temperature 0, expected one above 0; the rule mixes two distributions to draw from"
        )

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """`Ratio` with the mixture as the target."""
        mixed = probs_of(target).clone()
        at = ((draft.tokens >= 0) & ~elders(draft).any(-1)).nonzero(as_tuple=True)
        above = (at[0], draft.parent[at] + 1)
        p = mixed[above]
        q = one_hot(p, draft.tokens[at]) if draft.q is None else draft.q[at].to(p.dtype)
        mixed[above] = self.weight * p + (1 - self.weight) * q
        return super().distributions(mixed.log(), draft)


@dataclass(frozen=True)
class EntropyWindow(Ratio):
    """A refused token stays after all if the trunk was unsure there and the next `size` drafted tokens pass (Li et al.,
    FLy, arXiv 2511.22972); unsure: p log(1 / p) over the three likeliest is at least `entropy`. Chains only."""

    size: int = 6
    entropy: float = 0.3
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"window: size {self.size}, expected 1 or more")
        _require(self.entropy >= 0, f"window: entropy {self.entropy}, expected 0 or more")

    def greedy(self) -> AcceptanceRule:
        """Passing is being the trunk's choice."""
        return GreedyEntropyWindow(self.size, self.entropy)

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """A window that the draft does not fill excuses nothing."""
        if not draft.chain:
            raise ConfigError("window: a tree of drafted tokens, expected a chain; use typical for trees")
        probs, size = probs_of(target), draft.tokens.shape[1]
        chance, rest = self.compare(probs[:, :-1], draft.q, draft.tokens)
        unsure = entropy(probs[:, :-1].topk(min(3, probs.shape[-1]), -1).values) >= self.entropy
        behind = torch.nn.functional.pad(chance[:, 1:], (0, self.size)).unfold(1, self.size, 1).prod(-1)[:, :size]
        excused = (1 - chance) * unsure * behind
        reach = [torch.ones_like(probs[:, 0, 0]), *torch.zeros_like(chance).unbind(1)]
        for node in range(size):
            reach[node + 1] = reach[node + 1] + reach[node] * chance[:, node]
            if node + 1 + self.size <= size:
                past = node + 1 + self.size
                reach[past] = reach[past] + reach[node] * excused[:, node]
        stay = torch.cat([1 - chance - excused, torch.ones_like(probs[:, :1, 0])], 1)
        return torch.stack(reach, 1) * stay.clamp_min(0.0), torch.cat([rest, probs[:, -1:]], 1)


class GreedyEntropyWindow(EntropyWindow):
    """`EntropyWindow` where nothing is drawn."""

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """Sure to stay or sure to go."""
        return ((r.argmax(-1) == token) & (token >= 0)).to(r.dtype), r


@dataclass(frozen=True)
class Thresholds(SampleMatch):
    """SGLang's rule for its two thresholds: with one coin a node, a child stays if its probability is at least `single`
    or the coin is at most that of it and its elder siblings, over `acc`. Exact at 1 and 1 only."""

    single: float = 1.0
    acc: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("single", self.single), ("acc", self.acc)):
            _require(0 < value <= 1, f"thresholds: {name} {value}, expected a number above 0, at most 1")

    @property
    def exact(self) -> bool:  # type: ignore[override]
        """At 1 and 1 it is `SampleMatch`."""
        return self.single == 1 and self.acc == 1

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """What is left of the trunk's distribution has lost the refused children and is drawn from as it is."""
        stop, left = super().distributions(target, draft)
        total = left.sum(-1, keepdim=True)
        return stop, torch.where(total > 0, left / total.clamp_min(torch.finfo(left.dtype).tiny), probs_of(target))

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """What is missing from the sum of `r` are the elder siblings' probabilities."""
        here, x = token >= 0, token.clamp_min(0)[..., None]
        p = r.gather(-1, x)[..., 0]
        before = (1 - r.sum(-1)).clamp_min(0.0)
        low, high = ((value / self.acc).clamp_max(1.0) for value in (before, before + p))
        chance = torch.where(low < 1, (high - low) / (1 - low).clamp_min(torch.finfo(r.dtype).tiny), 1.0)
        chance = torch.where(p >= self.single, 1.0, chance)
        rest = torch.where(here[..., None], r.scatter(-1, x, 0.0), r)
        return torch.where(here, chance, 0.0), rest


def entropy(probs: Tensor) -> Tensor:
    """Sum of p log(1 / p) over the last axis, in nats."""
    return torch.special.entr(probs).sum(-1)


def log_chance(target: Tensor, draft: Draft) -> Tensor:
    """The trunk's log probability [B, P] of each drafted token behind its parent; anything where absent."""
    target = target.to(torch.promote_types(target.dtype, torch.float32))
    return _logit(target, draft) - target.logsumexp(-1).gather(1, draft.parent + 1)


def along(values: Tensor, draft: Draft) -> Tensor:
    """Sums [B, P] of `values` [B, P] on the way from the root to each node."""
    if draft.chain:
        return values.cumsum(1)
    return torch.where(draft.ancestors, values[:, None], 0.0).sum(-1)


def _logit(target: Tensor, draft: Draft) -> Tensor:
    """The trunk's logit [B, P] of each drafted token."""
    rows = torch.arange(len(target), device=target.device)[:, None]
    return target[rows, draft.parent + 1, draft.tokens.clamp_min(0)]


def _require(right: bool, message: str) -> None:
    if not right:
        raise ConfigError(message)
