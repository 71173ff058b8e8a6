"""What verification has to give whatever is drafted; test_every_strategy.py has the strategies of the table."""

import oracle
import pytest
import tiny
import torch
from cases import Case, RandomTree, as_sources, last_states, make_case, mutate
from engine_runs import Limits, generate

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.drafters.ctc import CtcDraft
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.state import DecodeState
from speechmtp.models.adapter import CtcMergeConfig, StackConfig


def run_all(seed: int) -> None:
    """One case under trees and lists that no strategy would draft."""
    case = make_case(seed)
    rng = tiny.generator(seed)
    assert case.run(RandomTree(seed, 1 + seed % 16), sources=case.tokens)[0] == case.tokens
    drafts = (tiny.sentences(rng, len(case.tokens), 12), [mutate(tokens, 0.3, rng) for tokens in case.tokens])
    for drafter, lists in zip((CtcDraft(), CtcDraft(depth=2)), drafts):
        assert case.run(drafter, sources=lists)[0] == case.tokens


@pytest.mark.parametrize("seed", range(12))
def test_random_drafts_equal_plain_greedy(seed: int) -> None:
    run_all(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_random_drafts_equal_plain_greedy_at_length(seed: int) -> None:
    run_all(seed)


@pytest.mark.parametrize("seed", range(6))
def test_fault_12_a_batch_equals_its_rows_alone(seed: int) -> None:
    """Tokens and every count, for drafts whose acceptance is ragged."""
    case = make_case(200 + seed, max_rows=5)
    rng = tiny.generator(seed)
    drafts = [mutate(tokens, 0.3, rng) for tokens in case.tokens]
    heads = tiny.heads("linear", 2, seed)
    for drafter, sources, head_set in (
        (CtcDraft(), drafts, None), (HeadChain(2), None, heads), (Oracle(2), case.tokens, None),
    ):  # fmt: skip
        tokens, traces = case.run(drafter, sources=sources, heads=head_set)
        for row in range(len(tokens)):
            alone, one = case.run(drafter, sources=sources, heads=head_set, rows=[row])
            assert alone == [tokens[row]]
            assert one[0].gaps == pytest.approx(traces[row].gaps, abs=1e-8)
            one[0].gaps = traces[row].gaps
            assert one[0] == traces[row]


def test_fault_13_heads_after_a_commit_know_what_a_fresh_prefill_knows() -> None:
    compared = []
    for seed in range(300, 312):
        case = make_case(seed, max_rows=6, most=20)

        def compare(state: DecodeState, case: Case = case) -> None:
            wanted = last_states(case, [row.slot for row in state.rows], [row.tokens for row in state.rows])
            torch.testing.assert_close(state.head_state.hidden, wanted, rtol=0, atol=1e-8)
            compared.append(len(state.rows))

        class WithHeads(RandomTree):
            heads = True

        drafter = WithHeads(seed, 4, probe=compare)
        tokens, _ = case.run(drafter, sources=case.tokens, heads=tiny.heads("latent", 2, seed))
        assert tokens == case.tokens
    assert sum(compared) > 15 and max(compared) > 2, "many calls were looked at, some of them ragged"


@pytest.mark.parametrize("seed", [1, 4, 9, 12])
def test_fault_15_cached_drafting_accepts_what_uncached_drafting_would(seed: int) -> None:
    """Counts of `verify`, by position, from full forwards alone."""
    case = make_case(seed, max_rows=8, most=16)
    heads = tiny.heads("latent", 3, seed)
    with torch.no_grad():
        heads.weight.copy_(torch.eye(tiny.WIDTH) + 0.3 * heads.weight)
    _, traces = case.run(HeadChain(3), heads=heads)
    for plain, trace in zip(case.plain, traces):
        said = oracle.head_logits(heads, case.trunk, plain.hidden).argmax(-1).tolist()
        calls, per_position, done = 1, [0, 0, 0], 1
        while done < len(plain.tokens):
            right = oracle.matched(said[done - 1], plain.tokens[done:])
            for position in range(right):
                per_position[position] += 1
            done, calls = done + right + 1, calls + 1
        assert trace.calls == calls and trace.num_drafts == calls - 1 and trace.num_draft_tokens == 3 * (calls - 1)
        counted = trace.num_accepted_tokens_per_pos
        assert counted + [0] * (3 - len(counted)) == per_position
    assert sum(trace.num_accepted_tokens for trace in traces) > 0


@pytest.mark.parametrize("seed", range(4))
def test_fault_30_in_float32_a_difference_sits_at_a_near_tie(seed: int) -> None:
    case = make_case(400 + seed, max_rows=6)
    case.trunk.float()
    prompt = case.prompt
    single = type(prompt)(prompt.embeddings.float(), prompt.positions, prompt.lengths, prompt.next_position)
    run = lambda drafter, sources=None: generate(  # noqa: E731
        case.trunk, None, single, drafter, GreedyMatch(), tiny.EOS, as_sources(sources), case.limits, record_gaps=True
    )
    for row in range(len(case.tokens)):
        reference, traces = generate(
            case.trunk, None, single.row(row), Silent(), GreedyMatch(), tiny.EOS, None,
            Limits(0, len(case.tokens[row])), record_gaps=True,
        )  # fmt: skip
        for tokens, _ in (run(CtcDraft(), case.tokens), run(RandomTree(seed, strict=False), case.tokens)):
            first = oracle.matched(tokens[row], reference[0])
            if first < min(len(tokens[row]), len(reference[0])):
                assert traces[0].gaps[first] < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("family", tiny.TRUNKS)
@pytest.mark.parametrize("adapter", [CtcMergeConfig(), StackConfig(frames=2, hidden=8)])
def test_from_features_to_tokens(family: str, adapter: CtcMergeConfig | StackConfig) -> None:
    """A whole model: the prompt of a padded batch, the CTC head's draft, and plain decoding of each row alone."""
    model = tiny.speech_lm(3, adapter, family)
    tiny.randomise(model.trunk, 3, gain=3.0)
    sizes = [60, 13, 3, 41]
    frames, lengths = tiny.frames(sizes, 3)
    out = model.encode_audio(frames, lengths)
    prompt = model.prompt(out)
    lists = [[t for t in row[:n].unique_consecutive().tolist() if t != tiny.VOCAB]
             for row, n in zip(out.logits.argmax(-1), out.lengths.tolist())]  # fmt: skip
    limits = Limits(1, 4)
    tokens, _ = generate(model.trunk, None, prompt, CtcDraft(), GreedyMatch(), tiny.EOS, as_sources(lists), limits)
    assert any(lists) and any(len(row) > 2 for row in tokens)
    for row, size in enumerate(sizes):
        alone = model.prompt(model.encode_audio(frames[row : row + 1, :size], lengths[row : row + 1]))
        limit = limits.of(int(alone.lengths[0]))
        assert tokens[row] == oracle.plain_greedy(model.trunk, alone, tiny.EOS, limit).tokens


def test_an_empty_batch_is_no_error() -> None:
    case = make_case(0)
    none = torch.zeros(0, dtype=torch.long)
    prompt = type(case.prompt)(case.prompt.embeddings[:0], case.prompt.positions[:0], none, none)
    assert generate(case.trunk, None, prompt, Silent(), GreedyMatch(), tiny.EOS) == ([], [])
