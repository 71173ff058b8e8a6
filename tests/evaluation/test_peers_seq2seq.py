"""Transformers' own `generate` on encoder-decoder recognisers: the tokens of our plain decoding, counts, refusals."""

from collections.abc import Callable

import pytest
import tiny
import torch
from engine_runs import generate

from speechmtp.decoding.drafters.contract import Silent
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.errors import ConfigError, ShapeError
from speechmtp.evaluation.peers import PeerRun, peer_modes, run_peer
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.types import sum_traces

LIMIT = 14
MAKERS = [tiny.tiny_moonshine, tiny.tiny_whisper]
makers = pytest.mark.parametrize("make", MAKERS)
modes = pytest.mark.parametrize("mode", ["greedy", "prompt_lookup"])


def ours(model: EncoderDecoder, lengths: list[int], seed: int) -> list[list[int]]:
    """What our own plain decoding says of random encoder outputs in one batch."""
    prompt = tiny.memory_prompts(model, lengths, seed)
    limits = [LIMIT] * len(lengths)
    return generate(model.trunk, None, prompt, Silent(), GreedyMatch(), tiny.EOS, limits=limits, rules=model.rules)[0]


def theirs(model: EncoderDecoder, mode: str, length: int, seed: int) -> PeerRun:
    """What transformers says of one, its decoder's forwards and their tokens counted apart from `run_peer`."""
    fed: list[int] = []
    decoder = model.trunk.model.get_decoder()
    hook = decoder.register_forward_hook(
        lambda _, args, given, __: fed.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    memory = tiny.memory_prompts(model, [length], seed).memory
    run = run_peer(model.trunk, mode, model.start_tokens(), model.rules, LIMIT, memory=memory)
    hook.remove()
    assert [run.trace.calls, run.trace.fed] == [len(fed), sum(fed)]
    return run


@modes
@makers
def test_the_same_memory_gives_our_tokens(make: Callable[[int], EncoderDecoder], mode: str) -> None:
    runs = []
    for seed in range(12):
        model = make(seed)
        run = theirs(model, mode, 1 + seed, seed)
        assert [run.tokens] == ours(model, [1 + seed], seed)
        trace = run.trace
        assert trace.emitted == len(run.tokens) and trace.finished == (run.tokens[-1] == tiny.EOS)
        assert trace.calls + trace.num_accepted_tokens - trace.emitted in (0, 1)
        assert trace.fed == len(model.start_tokens()) + trace.calls - 1 + trace.num_draft_tokens
        runs.append(run)
    total = sum_traces(run.trace for run in runs)
    assert 0 < sum(run.trace.finished for run in runs) < len(runs)
    assert (total.calls < total.emitted) == (total.num_draft_tokens > total.num_accepted_tokens) == (mode != "greedy")


def test_the_memory_counts() -> None:
    model = tiny.tiny_moonshine(4)
    assert theirs(model, "greedy", 9, 0).tokens != theirs(model, "greedy", 9, 1).tokens


@modes
def test_what_is_never_said_or_never_first(mode: str) -> None:
    said, first = set(), set()
    for seed in range(12):
        tokens = theirs(tiny.tiny_whisper(seed), mode, 5, seed).tokens
        said |= set(tokens)
        first.add(tokens[0])
    rules = tiny.tiny_whisper().rules
    assert said.isdisjoint(rules.suppress) and first.isdisjoint(rules.begin_suppress)
    assert said & set(rules.begin_suppress), "but later they are said"


@makers
def test_an_assistant_is_refused_with_its_reason(make: Callable[[], EncoderDecoder]) -> None:
    model = make()
    reasons = peer_modes(model.trunk, False, model.trunk)
    assert [mode for mode, why in reasons.items() if why is None] == ["greedy", "prompt_lookup"]
    assert "its own encoder, and none is given" in str(reasons["assistant"])
    memory = tiny.memory_prompts(model, [4]).memory
    with pytest.raises(ConfigError, match="assistant cannot run: transformers' assistant of an encoder-decoder"):
        run_peer(model.trunk, "assistant", model.start_tokens(), model.rules, LIMIT, model.trunk, memory)
    for memory in (None, torch.zeros(2, 4, tiny.WIDTH)):
        with pytest.raises(ShapeError, match="beside a memory of one row"):
            run_peer(model.trunk, "greedy", model.start_tokens(), model.rules, LIMIT, memory=memory)
