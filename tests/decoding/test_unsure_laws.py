"""Drafts that end at low confidence leave the distribution of sampled outputs as it is."""

from dataclasses import replace

import pytest
import tiny
from cases import near
from draft_model_runs import PLAIN, copies, outcomes, small
from engine_runs import RowSampling, Sources, generate
from judge import chi_squared

from speechmtp.decoding.drafters.contract import Drafter
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.state import DecodeState
from speechmtp.types import Draft, Trace

ROWS, TOKENS, THETA = 800, 3, 0.3
DRAFTERS = {
    "draft model": DraftModel(3, THETA),
    "parallel heads": HeadChain(2, THETA),
    "heads in a chain": HeadChain(2, THETA, "product"),
}


class Dropping(DraftModel):
    """A fault: drops the drawn token that is not sure enough, which leaves the sure ones more often than q says."""

    def propose(self, state: DecodeState) -> Draft:
        """The draft without its unsure end."""
        draft = super().propose(state)
        assert draft.confidence is not None
        sure = (draft.confidence >= THETA).long().cumprod(1).bool()
        return replace(draft, tokens=draft.tokens.masked_fill(~sure, -1))


def sampled(drafter: Drafter, rule: AcceptanceRule) -> tuple[float, list[Trace]]:
    """The p value of texts of up to three tokens, drafted by heads or a model that say something else; traces."""
    trunk = small(3)
    prompt = copies(trunk, ROWS)
    heads = tiny.heads("hydra" if getattr(drafter, "measure", None) else "latent", 2, 5, trunk.shape)
    sources = Sources(model=(near(trunk, 7, 0.8), [prompt.row(row) for row in range(ROWS)]))
    tokens, traces = generate(
        trunk, heads if drafter.heads else None, prompt, drafter, rule, tiny.EOS, sources, [TOKENS] * ROWS,
        row_sampling=RowSampling.of(PLAIN, range(ROWS)),
    )  # fmt: skip
    probs = outcomes(trunk, PLAIN, TOKENS)
    counts = dict.fromkeys(probs, 0)
    for row in tokens:
        counts[tuple(row)] += 1
    return chi_squared(list(counts.values()), list(probs.values())), traces


@pytest.mark.parametrize("rule", [Ratio(), BlockVerification()])
@pytest.mark.parametrize("name", DRAFTERS)
def test_theta_does_not_bias_what_is_drawn(name: str, rule: AcceptanceRule) -> None:
    """A token that was drawn is verified, however improbable it is; only those behind it are not drawn."""
    p, traces = sampled(DRAFTERS[name], rule)
    assert p > 1e-3
    lengths = {trace.num_draft_tokens for trace in traces}
    assert len(lengths) > 2, "drafts of several lengths"
    if name == "draft model":
        assert sampled(Dropping(3, THETA), rule)[0] < 1e-12
