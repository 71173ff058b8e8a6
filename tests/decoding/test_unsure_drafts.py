"""Drafts that end where the heads are unsure."""

from typing import Any

import pytest
import tiny
import torch
from cases import Watched, make_case
from torch import Tensor

from speechmtp.decoding.drafters.heads import HeadChain

DEPTH = 7


@pytest.mark.parametrize("kind", ["chain", "hydra", "latent"])
@pytest.mark.parametrize("measure", ["token", "product"])
def test_no_depth_is_computed_that_no_row_drafts(kind: str, measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are those of all depths, cut; over a run far fewer depths are computed than there are."""
    computed = []
    for seed in range(6):
        case, heads = make_case(seed, max_rows=3, most=12), tiny.heads(kind, DEPTH, seed)
        deepest: list[int] = []

        def expand(state: Any, d: int, *rest: Any, whole: Any = heads.expand, deepest: Any = deepest) -> Tensor:
            deepest[-1:] = [d] if d > 1 else [*deepest[-1:], d]
            return whole(state, d, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(heads, "expand", expand)
        full, cut = Watched(), Watched()
        assert case.run(HeadChain(DEPTH), full, heads=heads)[0] == case.tokens
        confidences = torch.cat([d.confidence[:, :1].flatten() for d in full.drafts if d.tokens.shape[1]])
        theta = float(confidences.median())
        deepest.clear()
        assert case.run(HeadChain(DEPTH, theta, measure), cut, heads=heads)[0] == case.tokens
        first, second = full.drafts[1], cut.drafts[1]  # both behind the prompt's call and the same tokens
        measured = first.confidence if measure == "token" else first.confidence.cumprod(1)
        sure = (measured >= theta).long().cumprod(1).bool()
        wanted = first.tokens.masked_fill(~sure, -1)
        reach = min(DEPTH, int(sure.any(0).sum()) + 1)
        assert second.tokens.tolist() == wanted[:, : second.tokens.shape[1]].tolist()
        assert (wanted[:, second.tokens.shape[1] :] == -1).all()
        if not heads.one_pass:
            assert second.tokens.shape[1] == reach, "what no row drafts is not fed"
            computed += deepest
    assert heads.one_pass or (len(computed) > 20 and sum(computed) < 0.9 * DEPTH * len(computed))
