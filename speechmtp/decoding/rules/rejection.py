"""Rules that compare the trunk's distribution with the distribution a token was drawn from, and keep the trunk's:
R1-R6."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.decoding.rules.contract import AcceptanceRule, GreedyMatch, probs_of
from speechmtp.decoding.state import Draws
from speechmtp.errors import ConfigError
from speechmtp.types import Draft


class Ratio(AcceptanceRule):
    """Rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318), siblings included.

    A child x, drawn from q, of a node behind which r is left of the trunk's distribution stays with probability
    min(1, r(x) / q(x)); else r becomes norm(r - q)+ and the next sibling is asked. Where nothing was drawn q is
    one-hot: x stays with r(x), and r loses x.
    """

    exact = True
    draws: ClassVar[Draws] = "own"

    def greedy(self) -> AcceptanceRule:
        """Dividing by a temperature of 0 is comparing first choices."""
        return GreedyMatch()

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The whole distribution; siblings are asked in the order in which they were drafted."""
        left = probs_of(target)
        if draft.chain or not draft.tokens.shape[1]:
            chance, rest = self.compare(left[:, :-1], draft.q, draft.tokens)
            stop = F.pad(chance.cumprod(1), (1, 0), value=1.0) * F.pad(1 - chance, (0, 1), value=1.0)
            return stop, torch.cat([rest, left[:, -1:]], 1)
        slots, children = families(draft)
        flat, size = children.clamp_min(0).flatten(1), left.shape[-1]
        token = torch.where(children < 0, -1, draft.tokens.gather(1, flat).view_as(children))
        q = None if draft.q is None else behind(draft.q, flat).view(*children.shape, size)
        r, chances = behind(left, slots), []
        for turn in range(children.shape[2]):  # all first children, all second ones, ..
            chance, r = self.compare(r, None if q is None else q[:, :, turn], token[:, :, turn])
            chances.append(chance)
        left = left.scatter(1, slots[..., None].expand_as(r), r)
        return _stops(torch.stack(chances, -1), slots, children, draft), left

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """Chance [..] that `token` [..] (-1: absent) stays, and what is left of r [.., V] if it does not."""
        chance, possible = ratio(r, q, token)
        q = one_hot(r, token) if q is None else q.to(r.dtype)
        return chance.clamp_max(1.0), residual(r, q, r, possible[..., None])


class SampleMatch(Ratio):
    """Draw the trunk's token and keep what equals it, whatever the draft was drawn from: in distribution, a one-hot
    draft."""

    draws: ClassVar[Draws] = "best"

    def compare(self, r: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
        """As if the draft had been certain."""
        return super().compare(r, None, token)


class BlockVerification(Ratio):
    """Block verification (Sun et al., arXiv 2403.10444): all of a chain is judged together; in expectation it never
    keeps less than `Ratio`. On a tree: ConfigError."""

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The whole distribution; with P_i the capped running product of p / q, node i is the last kept with h_i if
        none behind it was."""
        if not draft.chain:
            raise ConfigError("block: a tree of drafted tokens, expected a chain; use ratio for trees")
        probs = probs_of(target)
        ones = probs.new_ones(len(probs), 1)
        q = one_hot(probs[:, :-1], draft.tokens) if draft.q is None else draft.q.to(probs.dtype)
        steps, _ = ratio(probs[:, :-1], draft.q, draft.tokens)
        products = [ones[:, 0]]
        for step in steps.unbind(1):
            products.append((products[-1] * step).clamp_max(1.0))
        product = torch.stack(products, 1)
        more = torch.cat([draft.tokens >= 0, torch.zeros_like(ones, dtype=torch.bool)], 1)  # something was drafted here
        scaled, q = product[..., None] * probs, torch.cat([q, torch.zeros_like(probs[:, :1])], 1)
        surplus = (scaled - q).clamp_min(0.0).sum(-1)
        whole = surplus + (1 - product)
        last = torch.where(whole > 0, surplus / whole.clamp_min(torch.finfo(probs.dtype).tiny), 1.0)
        last = torch.where(more, last, product)
        beyond = torch.cat([(1 - last[:, 1:]).flip(1).cumprod(1).flip(1), ones], 1)
        return torch.cat([ones, last[:, 1:]], 1) * beyond, residual(scaled, q, probs, more[..., None])


class KSeq(Ratio):
    """k-SEQ (Sun et al., SpecTr, arXiv 2310.15141): each of the k children of a node, all drawn from one q with
    replacement, stays with min(1, p(x) / (rho q(x))); rho is the least that leaves nothing negative. ConfigError where
    siblings were not drawn so; one child is `Ratio`."""

    def distributions(self, target: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
        """The whole distribution; a row's nodes may have different numbers of children."""
        if draft.chain:
            return super().distributions(target, draft)
        left = probs_of(target)
        chance = left.new_zeros(draft.tokens.shape)
        older = elders(draft)
        at = ((draft.tokens >= 0) & ~older.any(-1)).nonzero(as_tuple=True)  # the first child of each parent
        if not len(at[0]):
            return stops(chance, draft), left
        q = self._common_proposal(draft, older, left.dtype)
        row, above = at[0], draft.parent[at] + 1
        siblings = (draft.parent[row] == draft.parent[at][:, None]) & (draft.tokens[row] >= 0)
        p, q = left[row, above], q[at]
        rho, rest = self._scale(p, q, siblings.sum(1))
        scaled = p / rho[:, None]
        which, child = siblings.nonzero(as_tuple=True)
        token = draft.tokens[row[which], child]
        chance[row[which], child] = ratio(scaled[which], q[which], token)[0].clamp_max(1.0)
        left[row, above] = rest
        return stops(chance, draft), left

    def _common_proposal(self, draft: Draft, older: Tensor, dtype: torch.dtype) -> Tensor:
        """Distributions [B, P, V] of the nodes, found to be the same for siblings."""
        where = "k-seq: siblings"
        if draft.q is None:
            raise ConfigError(f"{where} that were not drawn, expected draws with replacement; use sample-match")
        first = older.long().argmax(-1)  # of a node without elders some other, which is not looked at
        rows = torch.arange(len(first), device=first.device)[:, None]
        other = (draft.q != draft.q[rows, first]).any(-1) & older.any(-1) & (draft.tokens >= 0)
        if bool(other.any()):
            raise ConfigError(f"{where} drawn from different distributions, expected draws with replacement; use ratio")
        return draft.q.to(dtype)

    def _scale(self, p: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """The least valid rho [N] by bisection, and the distribution [N, V] behind k [N] refused children.

        What is left is p - c min(q, p / rho), c the expected number of children looked at: nowhere negative if and
        only if rho >= c (where p = q, rho is 1).
        """
        low, high = torch.ones_like(p[:, 0]), k.to(p.dtype)
        for _ in range(50):
            middle = (low + high) / 2
            valid = middle >= self._looked_at(p, q, middle, k)[0]
            low, high = torch.where(valid, low, middle), torch.where(valid, middle, high)
        looked_at, kept = self._looked_at(p, q, high, k)
        return high, residual(p, looked_at[:, None] * kept, p, torch.ones_like(p[:, :1], dtype=torch.bool))

    def _looked_at(self, p: Tensor, q: Tensor, rho: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Expected number [N] of children looked at, and min(q, p / rho) [N, V]."""
        kept = torch.minimum(q, p / rho[:, None])
        beta = kept.sum(-1).clamp_max(1.0)
        some = -torch.expm1(k * torch.log1p(-beta))
        return torch.where(beta > 0, some / beta.clamp_min(torch.finfo(p.dtype).tiny), k.to(p.dtype)), kept


def one_hot(like: Tensor, token: Tensor) -> Tensor:
    """All on `token` [..], in the shape of `like` [.., V]; an absent token (-1) counts as token 0."""
    return torch.zeros_like(like).scatter_(-1, token.clamp_min(0)[..., None], 1.0)


def ratio(p: Tensor, q: Tensor | None, token: Tensor) -> tuple[Tensor, Tensor]:
    """p / q at `token` [..] and whether q (None: one-hot) can have drawn it; 0 where it cannot or is absent."""
    x = token.clamp_min(0)[..., None]
    p_x = p.gather(-1, x)[..., 0]
    if q is None:
        possible = token >= 0
        return torch.where(possible, p_x, 0.0), possible
    q_x = q.gather(-1, x)[..., 0].to(p.dtype)
    possible = (q_x > 0) & (token >= 0)
    return torch.where(possible, p_x / q_x, 0.0), possible


def residual(p: Tensor, q: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """norm(p - q)+ [.., V], and `other` except `where` [.., 1] or where nothing is left by rounding: what was drafted
    cannot have been refused there."""
    rest = (p - q).clamp_min_(0.0)
    total = rest.sum(-1, keepdim=True)
    return torch.where(where & (total > 0), rest / total, other)


def families(draft: Draft) -> tuple[Tensor, Tensor]:
    """Slots [B, N] that have children, and these, [B, N, K] nodes as drafted, -1 behind them; rows with fewer such
    slots are filled up with a leaf."""
    found = []
    for tokens, parents in zip(draft.tokens.tolist(), draft.parent.tolist()):
        mine: dict[int, list[int]] = {}
        for node, (token, above) in enumerate(zip(tokens, parents)):
            if token >= 0:
                mine.setdefault(above + 1, []).append(node)
        found.append(mine)
    most = max(1, *map(len, found))
    width = max((len(nodes) for mine in found for nodes in mine.values()), default=1)
    slots, children = [], []
    for mine in found:
        leaf, rest = next(slot for slot in range(len(mine) + 1) if slot not in mine), most - len(mine)
        slots.append([*mine, *[leaf] * rest])
        children.append([*(nodes + [-1] * (width - len(nodes)) for nodes in mine.values()), *[[-1] * width] * rest])
    like = draft.parent
    return like.new_tensor(slots), like.new_tensor(children)


def behind(distributions: Tensor, slots: Tensor) -> Tensor:
    """Distributions [B, N, V] at some of all slots."""
    return distributions.gather(1, slots[..., None].expand(-1, -1, distributions.shape[-1]))


def _stops(chance: Tensor, slots: Tensor, children: Tensor, draft: Draft) -> Tensor:
    """`stops` by families: `chance` [B, N, K] of `children` [B, N, K] of `slots` [B, N]."""
    rows, size = draft.tokens.shape
    refused = F.pad((1 - chance).cumprod(-1), (1, 0), value=1.0)  # all of the first 0 .. K children
    chosen = chance.new_zeros(rows, size + 1)  # -1 falls into the last column, which is cut
    chosen.scatter_(1, children.remainder(size + 1).flatten(1), (chance * refused[..., :-1]).flatten(1))
    reach = torch.where(draft.ancestors, chosen[:, None, :-1], 1.0).prod(-1)
    stay = chance.new_ones(rows, size + 1).scatter_(1, slots, refused[..., -1])
    return F.pad(reach, (1, 0), value=1.0) * stay


def elders(draft: Draft) -> Tensor:
    """Bool [B, P, P]: row i is true at the siblings that were drafted before node i."""
    size = draft.tokens.shape[1]
    before = torch.ones(size, size, dtype=torch.bool, device=draft.tokens.device).tril_(-1)
    return (draft.parent[:, :, None] == draft.parent[:, None, :]) & before


def stops(chance: Tensor, draft: Draft) -> Tensor:
    """The probability [B, P + 1] that a slot is the last one kept, if each node stays with `chance` [B, P] once its
    parent is kept and its elder siblings are refused; 0 for absent nodes."""
    refused = 1 - chance
    chosen = chance * torch.where(elders(draft), refused[:, None], 1.0).prod(-1)
    reach = torch.where(draft.ancestors, chosen[:, None], 1.0).prod(-1)
    slots = torch.arange(chance.shape[1] + 1, device=chance.device)
    below = draft.parent[:, None] + 1 == slots[:, None]
    stay = torch.where(below, refused[:, None], 1.0).prod(-1)
    return torch.cat([torch.ones_like(stay[:, :1]), reach], 1) * stay
