"""The package's rules as judges of enumerated drafts."""

import math
from collections.abc import Sequence

import enumerate as whole
import torch
from enumerate import Distributions, Drafts, Node, Prefix, Verdict

from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.types import Draft


def as_draft(drafts: list[list[Node]], vocab: int, drawn: bool, chain: bool, absent: int = 0) -> Draft:
    """One batch of drafts of different sizes, with more absent nodes than needed."""
    size = max(map(len, drafts)) + absent
    tokens = torch.tensor([[n.token for n in nodes] + [-1] * (size - len(nodes)) for nodes in drafts])
    parent = torch.tensor([[n.parent for n in nodes] + [-1] * (size - len(nodes)) for nodes in drafts])
    tokens, parent = tokens.view(len(drafts), size).long(), parent.view(len(drafts), size).long()
    if chain:
        parent = torch.arange(-1, size - 1).expand_as(tokens)
    if drawn:  # rubbish where nothing is
        distributions = [[n.q for n in nodes] + [[1.0] * vocab] * (size - len(nodes)) for nodes in drafts]
        q = torch.tensor(distributions, dtype=torch.float64).view(len(drafts), size, vocab)
        confidence = q.gather(-1, tokens.clamp_min(0)[..., None])[..., 0]
        return Draft(tokens, parent, confidence, chain, q)
    return Draft(tokens, parent, chain=chain)


class ByRule:
    """A rule of the package as a judge of drafts: all drafts behind a prefix are one ragged batch."""

    def __init__(self, rule: AcceptanceRule, drawn: bool, chain: bool, absent: int = 0) -> None:
        self.rule, self.drawn, self.chain, self.absent = rule, drawn, chain, absent

    def __call__(self, target: Distributions, prefix: Prefix, drafts: list[list[Node]]) -> list[Verdict]:
        """The rule's distributions; nothing may stop at an absent node."""
        vocab = len(target(prefix))
        draft = as_draft(drafts, vocab, self.drawn, self.chain, self.absent)
        distributions = [whole.targets(target, prefix, nodes) for nodes in drafts]
        size = draft.tokens.shape[1]
        padded = [p + [[1 / vocab] * vocab] * (size + 1 - len(p)) for p in distributions]
        stop, follow = self.rule.distributions(torch.tensor(padded, dtype=torch.float64).log(), draft)
        assert stop.shape == (len(drafts), size + 1) and follow.shape == (len(drafts), size + 1, vocab)
        assert bool((stop >= 0).all() and (follow >= 0).all())
        assert float((stop.sum(1) - 1).abs().max()) < 1e-12
        assert float((follow.sum(-1) - 1).abs().max()) < 1e-12
        for row, nodes in enumerate(drafts):
            assert float(stop[row, len(nodes) + 1 :].sum()) == 0, "absent nodes are never kept"
        return [
            (s[: len(nodes) + 1], f[: len(nodes) + 1]) for s, f, nodes in zip(stop.tolist(), follow.tolist(), drafts)
        ]


def kept(rule: AcceptanceRule, target: Distributions, drafts: Drafts, drawn: bool = True) -> float:
    """Expected number of accepted tokens of the first round."""
    weights, made = zip(*drafts.all((), 0))
    verdicts = ByRule(rule, drawn, True)(target, (), list(made))
    return math.fsum(w * n * chance for w, (stop, _) in zip(weights, verdicts) for n, chance in enumerate(stop))


def chi_squared(counts: Sequence[float], probs: Sequence[float]) -> float:
    """The p value of counts that should follow a distribution: 0 where something impossible came, rare cells as one."""
    total = sum(counts)
    if any(n and not p for n, p in zip(counts, probs)):
        return 0.0
    cells = [(n, p * total) for n, p in zip(counts, probs) if p * total >= 5]
    rare = [(n, p * total) for n, p in zip(counts, probs) if p * total < 5]
    cells.append((sum(n for n, _ in rare), sum(e for _, e in rare)))
    cells = [(n, e) for n, e in cells if e > 0]
    statistic = sum((n - e) ** 2 / e for n, e in cells)
    half = torch.tensor([(len(cells) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
