"""Acceptance of multi-token heads, predicted from one teacher-forced pass over known outputs.

Matrices are indexed by start and depth: start k = 0..n - 2 of an output of n tokens is the draft behind token k
(known, the base token), and depth d = 1..D drafts token k + d. Depths past the last token have no label.
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
    """One output's pass, arrays [n - 1, D]: `right` (bool: the likeliest token is the label), `near` (bool: it is
    among the five likeliest) and `nats` (float: its cross-entropy, nan where the heads cannot draft it). Entries
    without a label are rubbish; `tokens` is n. `rank` (int: how many tokens are likelier than the label) is empty
    where nobody counted."""

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
        """Bool [n - 1, D]: depth d of start k has a label where k + d < n."""
        starts, depths = np.arange(len(self.right)), np.arange(1, self.depth + 1)
        return starts[:, None] + depths < self.tokens

    @property
    def runs(self) -> NDArray[np.int64]:
        """Tokens [n - 1] that are right in a row at each start, labels permitting."""
        return (self.right & self.labelled).cumprod(1).sum(1)


@dataclass(frozen=True)
class Walk:
    """Decoding of one output, replayed: trunk calls, and the starts at which drafts were made."""

    calls: int
    starts: tuple[int, ...]


def walk(runs: Sequence[int] | NDArray[np.int64], tokens: int, depth: int) -> Walk:
    """The calls that `verify` with drafts of `depth` tokens needs for an output of `tokens` tokens.

    The prompt's call gives one token. Each further one gives the tokens accepted behind the last and one more,
    cut at the end of the output. `runs` [tokens - 1] are the right tokens at each start.
    """
    if not tokens:
        return Walk(0, ())
    done, starts = 1, []
    while done < tokens:
        starts.append(done - 1)
        done += min(int(runs[done - 1]), depth) + 1
    return Walk(1 + len(starts), tuple(starts))


def ceiling(lengths: Sequence[int], depth: int) -> float | None:
    """Tokens per call if every draft of `depth` tokens were right, for outputs of these lengths."""
    lengths = [n for n in lengths if n]
    return sum(lengths) / sum(1 - (1 - n) // (depth + 1) for n in lengths) if lengths else None


@dataclass(frozen=True)
class DepthScore:
    """What is known of one depth; shares are fractions, None where there is nothing to divide by.

    `outside` is the share of labels that the heads cannot draft (a shortlist lacks them): wrong in `top1` and
    `top5`, left out of `cross_entropy` (nats). `unconditional`: the first `depth` tokens all right, of all starts
    with so many labels; `conditional`: of those among them whose first `depth` - 1 are right; `walked`: the same
    at the starts of real calls only. `tokens_per_call`, `ceiling` and `share` are of drafts of this depth, walked;
    `product` is 1 + the sum of `unconditional` up to here (biased: the text is harder after a miss).
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
    """The prediction for a head set: totals of the walk at its full depth, and every depth by itself."""

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
    """All figures of a head set from its passes, one an utterance."""
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
    """How often, at each depth [D], the token of each rank [ranks] is right where those before are of these ranks too:
    the acceptance of a tree's nodes whose path is right. 0 where a depth was never reached."""
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
    """Depth d; `walks` are those of the full depth, `product` is that of the depths before."""
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
    """Of the runs that reached depth d - 1, those that reached d."""
    return _ratio(int((runs >= d).sum()), int((runs >= d - 1).sum()))


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
