"""What a draft model says of a drafted token is what it says after the whole text, whatever its cache held."""

from dataclasses import dataclass

import oracle
import pytest
from draft_model_runs import case_and_draft, decode, itself

from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.rules.threshold import Threshold
from speechmtp.decoding.state import DecodeState
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.types import Draft


@dataclass(frozen=True)
class Checked(DraftModel):
    """Compares the confidence of every drafted token with a forward of its own."""

    def propose(self, state: DecodeState) -> Draft:
        """The draft, checked."""
        draft = super().propose(state)
        if draft.confidence is None:
            return draft
        for row, tokens, sure in zip(state.rows, draft.tokens.tolist(), draft.confidence.tolist()):
            source = row.request.source(DraftPrompt)
            assert source is not None
            said = [token for token in tokens if token >= 0]
            states = oracle.full_states(source.trunk, source.prompt, [*row.tokens, *said[:-1]])[-len(said) :]
            probs = source.trunk.unembed(states).softmax(-1)
            assert sure[: len(said)] == pytest.approx([float(p[t]) for p, t in zip(probs, said)], abs=1e-9)
        return draft


@pytest.mark.parametrize("seed", [2, 5])
def test_confidences_are_those_of_a_whole_forward(seed: int) -> None:
    """Of rows that accept different numbers of tokens and leave at different times."""
    case, sources = case_and_draft(seed, max_rows=8, most=9)
    assert len(case.tokens) > 2
    tokens, traces = decode(case, sources, Checked(4))
    assert tokens == case.tokens
    assert any(trace.num_accepted_tokens for trace in traces)


def test_a_refused_token_that_comes_after_all_is_fed_again() -> None:
    """The rule refuses what the trunk itself drafts, and the trunk then says the same: the draft model's cache holds
    it, and its logits are needed again."""
    case, _ = case_and_draft(1, max_rows=4, most=7)
    tokens, traces = decode(case, itself(case), Checked(3), rule=Threshold(theta=1.0))
    assert tokens == case.tokens and len(case.tokens[0]) > 1
    assert sum(trace.num_accepted_tokens for trace in traces) == 0
    assert all(trace.calls == len(row) for trace, row in zip(traces, tokens))
