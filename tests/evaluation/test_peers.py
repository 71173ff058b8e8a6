"""Transformers' own `generate` on our trunks: the same tokens as our plain decoding, honest counts, named refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import small_lm
import tiny
import torch
import transformers
from engine_runs import Limits, generate
from small_lm import load_lm

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.evaluation.peers import PEER_MODES, PeerRun, peer_modes, run_peer
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, sum_traces

LIMIT = 14
IDS = [[1], [1, 4, 7], [1, 5, 5, 9, 3, 5, 5]]


def ours(trunk: Trunk, prompt: Prompt | list[int], eos: int = tiny.EOS) -> list[int]:
    """What our own plain decoding says."""
    if isinstance(prompt, list):
        size = torch.tensor([len(prompt)])
        embeddings = trunk.embed(torch.tensor([prompt])).detach()
        prompt = Prompt(embeddings, torch.arange(len(prompt))[None], size, size)
    return generate(trunk, None, prompt, Silent(), GreedyMatch(), eos, limits=Limits(0.0, LIMIT, LIMIT))[0][0]


def theirs(trunk: Trunk, mode: str, prompt: Prompt | list[int], assistant: Trunk | None = None) -> PeerRun:
    """What transformers says, its forwards counted apart from `run_peer`."""
    counts = [0, 0]

    def note(place: int) -> None:
        counts[place] += 1

    models = [trunk] if assistant is None else [trunk, assistant]
    hooks = [m.model.get_decoder().register_forward_hook(lambda *_, i=i: note(i)) for i, m in enumerate(models)]
    run = run_peer(trunk, mode, prompt, tiny.RULES, LIMIT, assistant)
    for hook in hooks:
        hook.remove()
    assert [run.trace.calls, run.trace.draft_calls] == counts
    return run


def sure_assistant(seed: int) -> Trunk:
    """An assistant that never stops a draft for lack of confidence."""
    trunk = tiny.trunk(seed)
    trunk.model.generation_config.assistant_confidence_threshold = 0.0
    return trunk


def check_counts(run: PeerRun, entries: int) -> None:
    """Counts that follow from the tokens and from one another."""
    trace = run.trace
    assert trace.emitted == len(run.tokens)
    # Every call gives a token of its own, but the last one where a draft ends the output.
    assert trace.calls + trace.num_accepted_tokens - trace.emitted in (0, 1)
    assert trace.prompt_calls == 1
    assert trace.fed == entries + trace.calls - 1 + trace.num_draft_tokens
    assert trace.finished == (run.tokens[-1] == tiny.EOS)
    assert sum(trace.num_accepted_tokens_per_pos) == trace.num_accepted_tokens
    assert run.seconds > 0


@pytest.mark.parametrize("mode", ["greedy", "prompt_lookup"])
def test_audio_prompts_with_positions_that_repeat_give_our_tokens(mode: str) -> None:
    if reason := peer_modes(tiny.trunk(), True)[mode]:
        pytest.skip(reason)
    runs = []
    for seed in range(16):
        trunk = tiny.trunk(seed, tiny.TRUNKS[seed % 2])
        prompt = tiny.prompts(trunk, [1 + seed % 8], seed)
        runs.append(theirs(trunk, mode, prompt))
        assert runs[-1].tokens == ours(trunk, prompt)
        check_counts(runs[-1], 1 + seed % 8)
    total = sum_traces(run.trace for run in runs)
    assert 0 < sum(run.trace.finished for run in runs) < len(runs)
    assert (total.calls < total.emitted) == (total.num_drafts > 0) == (mode == "prompt_lookup")


def test_the_positions_given_count() -> None:
    trunk = tiny.trunk(0)
    prompt = tiny.prompts(trunk, [7])
    plain = replace(prompt, positions=torch.arange(7)[None], next_position=torch.tensor([7]))
    assert theirs(trunk, "greedy", plain).tokens == ours(trunk, plain) != theirs(trunk, "greedy", prompt).tokens


@pytest.mark.parametrize("mode", PEER_MODES)
def test_prompts_of_ids_give_our_tokens(mode: str) -> None:
    total = []
    for seed in (0, 9):
        trunk = tiny.trunk(seed, tiny.TRUNKS[seed % 2])
        assistant = sure_assistant(seed + 1) if mode == "assistant" else None
        for ids in IDS:
            run = theirs(trunk, mode, ids, assistant)
            assert run.tokens == ours(trunk, ids)
            check_counts(run, len(ids))
            total.append(run.trace)
    counts = sum_traces(total)
    assert (counts.draft_calls > 0) == (mode == "assistant")
    assert (counts.num_draft_tokens > counts.num_accepted_tokens) == (mode != "greedy")


def test_an_assistant_of_the_same_weights_is_always_right() -> None:
    trunk = tiny.trunk(4)
    run = theirs(trunk, "assistant", IDS[1], sure_assistant(4))
    assert run.tokens == ours(trunk, IDS[1]) and len(run.tokens) == LIMIT
    assert run.trace.calls == 1 and run.trace.num_accepted_tokens == LIMIT - 1 == run.trace.draft_calls


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_text_lm_gives_our_tokens(family: str, tmp_path: Path) -> None:
    lm = load_lm(small_lm.write_lm(tmp_path / "lm", family))
    lm.trunk.double()
    ids = lm.encode("the cat sat on the mat and the cat")
    plain = ours(lm.trunk, ids, lm.eos[0])
    for mode in PEER_MODES:
        run = run_peer(lm.trunk, mode, ids, lm.rules, LIMIT, lm.trunk if mode == "assistant" else None)
        assert run.tokens == plain


def test_the_models_own_generation_settings_count_but_for_beams_and_sampling() -> None:
    """Penalties, suppressed tokens and end tokens of its folder, so that a difference from ours shows."""
    trunk = tiny.trunk(1)
    prompt = tiny.prompts(trunk, [5])
    plain = ours(trunk, prompt)
    drawn = transformers.GenerationConfig(
        do_sample=True, temperature=9.0, num_beams=2, num_return_sequences=2, eos_token_id=tiny.EOS,
        prompt_lookup_num_tokens=3, return_dict_in_generate=True,
    )  # fmt: skip
    trunk.model.generation_config = drawn
    run = theirs(trunk, "greedy", prompt)
    assert run.tokens == plain and run.trace.num_drafts == 0 and trunk.model.generation_config is drawn
    for own in ({"repetition_penalty": 9.0}, {"suppress_tokens": [plain[0]]}):
        trunk.model.generation_config = transformers.GenerationConfig(eos_token_id=tiny.EOS, **own)
        assert theirs(trunk, "greedy", prompt).tokens != plain
    trunk.model.generation_config = transformers.GenerationConfig(eos_token_id=[plain[2], tiny.EOS])
    run = theirs(trunk, "greedy", prompt)
    assert run.tokens == plain[:3] and run.trace.finished
    trunk.model.generation_config = transformers.GenerationConfig()
    assert theirs(trunk, "greedy", prompt).tokens == plain, "the request's end tokens, if it has none"


def test_modes_that_cannot_run_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, prompt = tiny.trunk(), tiny.prompts(tiny.trunk(), [4])
    assert peer_modes(trunk, False, tiny.trunk(1)) == dict.fromkeys(PEER_MODES)
    assert "token ids alone" in str(peer_modes(trunk, True, tiny.trunk(1))["assistant"])
    assert peer_modes(trunk, False)["assistant"] == "no assistant is given"
    with pytest.raises(ConfigError, match="assistant cannot run: transformers gives"):
        run_peer(trunk, "assistant", prompt, tiny.RULES, LIMIT, tiny.trunk(1))
    with pytest.raises(ConfigError, match="no mode 'beam', expected one of greedy"):
        run_peer(trunk, "beam", prompt, tiny.RULES, LIMIT)
    other = tiny.trunk(1)
    other.vocab_size = 99
    assert peer_modes(trunk, False, other)["assistant"] == "the assistant has 99 tokens, expected 11"
    monkeypatch.setattr(transformers, "__version__", "5.17.3")
    assert "transformers 5.17.3 gives wrong tokens" in str(peer_modes(trunk, True)["prompt_lookup"])
    assert peer_modes(trunk, False)["prompt_lookup"] is None and peer_modes(trunk, True)["greedy"] is None


def test_prompts_that_generate_would_read_otherwise_are_refused() -> None:
    trunk = tiny.trunk()
    prompt = tiny.prompts(trunk, [4])
    with pytest.raises(ShapeError, match="text starts at position 5, expected 1"):
        run_peer(trunk, "greedy", replace(prompt, next_position=torch.tensor([5])), tiny.RULES, LIMIT)
    for wrong in (tiny.prompts(trunk, [4, 3]), replace(prompt, lengths=torch.tensor([3]))):
        with pytest.raises(ShapeError, match="expected one row, unpadded"):
            run_peer(trunk, "greedy", wrong, tiny.RULES, LIMIT)
