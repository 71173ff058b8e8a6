"""Acceptance of multi-token heads, predicted from one teacher-forced pass over known outputs.

Matrices are indexed by start and depth. Start k = 0..n - 2 of an output of n tokens is the draft after token k (the
base token, which is known), and depth d = 1..D drafts token k + d. Depths past the last token have no label.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRODUCT_NOTE = "biased: the text is harder after a miss"
OUTSIDE = 1 << 20  # rank of a label that the heads cannot draft


@dataclass(frozen=True)
class Forced:
    """The pass over one output of `tokens` = n tokens, as arrays [n - 1, D]. `right` (bool): the most likely token is
    the label. `near` (bool): the label is among the five most likely tokens. `nats` (float): its cross-entropy, NaN if
    the heads cannot draft it. `rank` (int): how many tokens are more likely than the label; empty if not computed.
    Entries without a label are undefined."""

    right: NDArray[np.bool_]
    near: NDArray[np.bool_]
    nats: NDArray[np.float64]
    tokens: int
    rank: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @property
    def depth(self) -> int:
        """Depth D of the heads."""
        return int(self.right.shape[1])

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Bool [n - 1, D]: whether depth d of start k has a label, that is k + d < n."""
        starts, depths = np.arange(len(self.right)), np.arange(1, self.depth + 1)
        return starts[:, None] + depths < self.tokens

    @property
    def runs(self) -> NDArray[np.int64]:
        """Number of correct tokens [n - 1] before the first wrong or unlabelled one, at each start."""
        return (self.right & self.labelled).cumprod(1).sum(1)


@dataclass(frozen=True)
class Walk:
    """The replayed decoding of one output: its number of trunk calls, and the starts at which drafts were made."""

    calls: int
    starts: tuple[int, ...]


def walk(runs: Sequence[int] | NDArray[np.int64], tokens: int, depth: int) -> Walk:
    """Replay `verify` with drafts of `depth` tokens on an output of `tokens` tokens and count its calls.

    The prompt's call emits one token. Each further call emits the accepted tokens and one more, cut at the end of the
    output. `runs` [tokens - 1] are the numbers of correct tokens at each start.
    """
    if not tokens:
        return Walk(0, ())
    done, starts = 1, []
    while done < tokens:
        starts.append(done - 1)
        done += min(int(runs[done - 1]), depth) + 1
    return Walk(1 + len(starts), tuple(starts))


def ceiling(lengths: Sequence[int], depth: int) -> float | None:
    """Tokens per call if every draft of `depth` tokens were accepted, for outputs of these lengths; None without
    tokens."""
    lengths = [n for n in lengths if n]
    return sum(lengths) / sum(1 - (1 - n) // (depth + 1) for n in lengths) if lengths else None


@dataclass(frozen=True)
class DepthScore:
    """Scores of one depth. Shares are fractions, None where the denominator is 0.

    `top1` and `top5` are the shares of labels that are the most likely token, or among the five most likely. `outside`
    is the share of labels that the heads cannot draft (missing from a shortlist); they count as wrong in `top1` and
    `top5` and are left out of `cross_entropy` (nats). `unconditional` is the share of starts, among those with enough
    labels, whose first `depth` tokens are all correct. `conditional` is the same among starts whose first `depth` - 1
    tokens are correct, and `walked` is `conditional` at the starts of replayed calls only. `tokens_per_call`, `ceiling`
    and their ratio `share` are replayed with drafts of this depth. `product` is 1 + the sum of `unconditional` up to
    this depth (biased: the text is harder after a miss).
    """

    depth: int
    labels: int
    top1: float | None
    top5: float | None
    cross_entropy: float | None
    outside: float | None
    unconditional: float | None
    conditional: float | None
    walked: float | None
    tokens_per_call: float | None
    ceiling: float | None
    share: float | None
    product: float


@dataclass(frozen=True)
class Acceptance:
    """The prediction for a head set: totals of the replay at its full depth, and the scores of every depth."""

    utterances: int
    tokens: int
    calls: int
    tokens_per_call: float | None
    ceiling: float | None
    share: float | None
    product: float
    depths: tuple[DepthScore, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"product_note": PRODUCT_NOTE}


def acceptance(passes: Sequence[Forced]) -> Acceptance:
    """All scores of a head set from its passes, one per utterance."""
    depth = passes[0].depth if passes else 0
    lengths = [p.tokens for p in passes]
    walks = _walks(passes, depth)
    calls, max_rate = sum(w.calls for w in walks), ceiling(lengths, depth)
    rate = _ratio(sum(lengths), calls)
    scores: list[DepthScore] = []
    for d in range(1, depth + 1):
        scores.append(_score(passes, walks, lengths, d, scores[-1].product if scores else 1.0))
    product = scores[-1].product if scores else 1.0
    share = _ratio(rate, max_rate)
    return Acceptance(len(passes), sum(lengths), calls, rate, max_rate, share, product, tuple(scores))


def rank_table(passes: Sequence[Forced], ranks: int = 10) -> list[list[float]]:
    """Table [D][ranks]: how often, at each depth, the token of each rank is correct, given that the tokens before it
    are within these ranks too. It is the acceptance of a tree node whose path is correct; 0 for a depth that is never
    reached."""
    table = []
    depth = passes[0].depth if passes else 0
    for d in range(depth):
        reached = [(p.rank[:, :d] < ranks).all(1) & p.labelled[:, d] for p in passes]
        found = np.concatenate([p.rank[r, d] for p, r in zip(passes, reached)])
        counts = np.bincount(found[found < ranks], minlength=ranks)
        table.append((counts / max(1, len(found))).tolist())
    return table


def _walks(passes: Sequence[Forced], depth: int) -> list[Walk]:
    return [walk(p.runs, p.tokens, depth) for p in passes]


def _score(
    passes: Sequence[Forced], walks: Sequence[Walk], lengths: Sequence[int], d: int, product: float
) -> DepthScore:
    """The scores of depth d; `walks` are those of the full depth, `product` is that of the depth before."""
    known = [p.labelled[:, d - 1] for p in passes]
    called = [np.isin(np.arange(len(k)), w.starts) & k for k, w in zip(known, walks)]
    count = int(sum(k.sum() for k in known))
    nats = np.concatenate([p.nats[k, d - 1] for p, k in zip(passes, known)])
    inside = nats[~np.isnan(nats)]
    runs = np.concatenate([p.runs[k] for p, k in zip(passes, known)])
    real = np.concatenate([p.runs[c] for p, c in zip(passes, called)])
    unconditional = _ratio(int((runs >= d).sum()), len(runs))
    rate = _ratio(sum(lengths), sum(w.calls for w in _walks(passes, d)))
    max_rate = ceiling(lengths, d)
    return DepthScore(
        d, count,
        _ratio(int(sum(p.right[k, d - 1].sum() for p, k in zip(passes, known))), count),
        _ratio(int(sum(p.near[k, d - 1].sum() for p, k in zip(passes, known))), count),
        float(inside.mean()) if len(inside) else None,
        _ratio(count - len(inside), count),
        unconditional, _conditional(runs, d), _conditional(real, d), rate, max_rate, _ratio(rate, max_rate),
        product + (unconditional or 0.0),
    )  # fmt: skip


def _conditional(runs: NDArray[np.int64], d: int) -> float | None:
    """Share of the runs of at least d - 1 tokens that reach d."""
    return _ratio(int((runs >= d).sum()), int((runs >= d - 1).sum()))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
