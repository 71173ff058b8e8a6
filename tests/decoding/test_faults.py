"""Faults of public systems in processors, stopping and counting, looked for in every strategy."""

from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import oracle
import pytest
import tiny
import torch
import transformers
from cases import RandomTree, Scripted
from engine_runs import RowSampling, Setup, generate_mixed
from scenes import LABELS, Scene, make_scene
from torch import Tensor

from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import Processors, SamplingConfig
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.models.trunk import Trunk
from speechmtp.types import Draft, Trace

PENALTIES = SamplingConfig(repetition_penalty=1.8, no_repeat_ngram_size=3)
ALL = [name for name in STRATEGIES if name != "ctc-only"]  # which calls no trunk
RULES = {type(s.rule).__name__: s.rule for s in map(parse_strategy, (*ALL, *LABELS)) if s.rule is not None}


def greedy(scene: Scene, strategies: list[str]) -> tuple[list[list[int]], list[Trace]]:
    """Decode with penalties."""
    return scene.run(strategies, row_sampling=RowSampling(PENALTIES.processors()))


@torch.no_grad()
def penalised(trunk: Trunk, scene: Scene, row: int) -> list[int]:
    """Plain decoding with penalties, by hand: what was said is less likely, and no three tokens come twice."""
    request, said = scene.requests[row], list[int]()
    while len(said) < (request.limit or 0) and said[-1:] != [tiny.EOS]:
        logits = trunk.unembed(oracle.full_states(trunk, request.prompt, said)[-1]).tolist()
        text = [*request.ids, *said]
        for token in set(text):
            logits[token] *= PENALTIES.repetition_penalty ** (-1 if logits[token] > 0 else 1)
        for start in range(len(text) - 2):
            if text[start : start + 2] == text[-2:]:
                logits[text[start + 2]] = -float("inf")
        said.append(max(range(tiny.VOCAB), key=lambda v: logits[v]))
    return said


class Watching:
    """A processor that does nothing but count what it was asked about."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[int, ...]] = Counter()

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Note the prefixes."""
        self.seen.update(map(tuple, ids.tolist()))
        return logits


class Noting(RandomTree):
    """Trees whose nodes' prefixes are known."""

    expected: ClassVar[Counter[tuple[int, ...]]] = Counter()

    def propose(self, state: DecodeState) -> Draft:
        """A random tree a row; its prefixes by walking up from every node."""
        draft = super().propose(state)
        for row, tokens, parent in zip(state.rows, draft.tokens.tolist(), draft.parent.tolist()):
            paths = [tiny.path_to(parent, node) for node, token in enumerate(tokens) if token >= 0]
            for path in ([], *paths):
                self.expected[(*row.prefix, *(tokens[i] for i in path))] += 1
        return draft


@pytest.mark.parametrize("seed", [2, 5, 8])
def test_fault_09_processors_see_each_nodes_own_prefix(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, output and path of every node, once each, from one trunk call a step."""
    scene, watching, calls = make_scene(seed), Watching(), list[int]()
    answers = [row.tokens for row in scene.plain]
    prompt = [request.prompt for request in scene.requests]
    extend = scene.trunk.extend
    monkeypatch.setattr(scene.trunk, "extend", lambda *given: calls.append(len(given[0])) or extend(*given))
    monkeypatch.setattr(Noting, "expected", Counter())
    for row, request in enumerate(scene.requests):
        row_sampling, bound = RowSampling(Processors([watching])), Setup(Noting(seed, 9, strict=False), GreedyMatch())
        bound = replace(bound, sources=replace(bound.sources, reference=[answers[row]]))
        calls.clear()
        (tokens,), (trace,) = generate_mixed(
            scene.trunk, prompt[row], [bound], tiny.EOS, [request.limit or 0], row_sampling, [request.ids]
        )
        assert tokens == answers[row] and len(calls) == trace.calls
    # Absent nodes are asked about as well, whatever stands before them.
    assert not Noting.expected - watching.seen and len(Noting.expected) > 10


@pytest.mark.parametrize("seed", [1, 8, 13])
def test_fault_23_penalties_are_those_of_plain_decoding_at_every_depth(seed: int) -> None:
    """One token a call or many, in chains and in trees; what was refused counts for nothing."""
    scene = make_scene(seed)
    wanted = [penalised(scene.trunk, scene, row) for row in range(len(scene.requests))]
    assert wanted != scene.tokens, "penalties matter"
    labels = [
        "ar", "verify:depth=0", "verify:depth=3", scene.tree(), "dynamic-tree", "draft-model:depth=0",
        "draft-model:depth=4", "lookup:depth=4", "ctc:mode=tree", "jacobi",
    ]  # fmt: skip
    for label in labels:
        assert greedy(scene, [label])[0] == wanted, label
    assert greedy(scene, scene.some(labels, len(wanted)))[0] == wanted


def telling(said: list[int]) -> Trunk:
    """A trunk that says the next of these different tokens behind each, the first behind the start token; it is
    sure."""
    trunk = tiny.trunk(1)
    follows = torch.zeros(tiny.VOCAB, tiny.VOCAB, dtype=torch.float64)
    for before, token in zip([tiny.BOS, *said], said):
        follows[before, token] = 200.0
    embedded, extend = trunk.embed(torch.arange(tiny.VOCAB)).detach(), trunk.extend

    def watched(embeddings: Tensor, *rest: Any) -> Any:
        fed = torch.cdist(embeddings, embedded[None]).argmin(-1)
        return replace(extend(embeddings, *rest), hidden=torch.nn.functional.one_hot(fed, tiny.VOCAB).double())

    trunk.extend = watched  # type: ignore[method-assign, assignment]
    trunk.unembed = lambda hidden: hidden @ follows  # type: ignore[method-assign]
    return trunk


class Certain(Scripted):
    """Drafts by script, with probabilities for rules that ask for them."""

    def propose(self, state: DecodeState) -> Draft:
        """All are 1."""
        draft = super().propose(state)
        return replace(draft, confidence=torch.ones(draft.tokens.shape, dtype=torch.float64))


SAID = [3, 4, 5, 6, tiny.EOS, 10, 0]  # the sentence, and what would come behind its end
END = SAID.index(tiny.EOS)


def told(rule: AcceptanceRule, script: dict[int, list[int]], limit: int, drawn: bool) -> tuple[list[int], Trace]:
    """One row of a trunk that says `SAID`, whose drafts are given."""
    trunk = telling(SAID)
    row_sampling = RowSampling(None, [5], [0]) if drawn else None
    (tokens,), (trace,) = generate_mixed(
        trunk,
        tiny.prompts(trunk, [4]),
        [Setup(Certain([script]), rule)],
        tiny.EOS,
        [limit],
        row_sampling,
        record_gaps=True,
    )
    assert trace.emitted == len(tokens) == len(trace.gaps)
    return tokens, trace


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_fault_20_an_end_token_at_every_index_of_a_draft(rule: AcceptanceRule, drawn: bool) -> None:
    """Under every rule nothing behind it is emitted or counted, though the trunk itself would say it."""
    if isinstance(rule, Ensemble) and not drawn:
        return  # it says that it draws
    for index in range(END + 1):
        start = END - index
        tokens, trace = told(rule, {start: SAID[start:]}, 40, drawn)
        assert tokens == SAID[: END + 1] and trace.finished and trace.calls == start + 1
        assert trace.num_draft_tokens == len(SAID[start:]) and trace.num_accepted_tokens == index + 1
        assert trace.num_accepted_tokens_per_pos == [1] * (index + 1)
    tokens, trace = told(rule, {0: SAID[:END]}, 40, drawn)
    assert tokens == SAID[: END + 1] and trace.finished, "and one behind the draft"
    assert trace.calls == 1 and trace.num_accepted_tokens == END and trace.mean_acceptance_length == END + 1


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_fault_21_an_end_token_in_the_call_that_crosses_the_limit_wins(rule: AcceptanceRule, drawn: bool) -> None:
    if isinstance(rule, Ensemble) and not drawn:
        return
    for limit in range(END + 4):
        tokens, trace = told(rule, {2: SAID[2:]}, limit, drawn)
        assert tokens == SAID[: min(limit, END + 1)] and trace.calls == min(max(limit, 1), 3)
        assert trace.finished == (limit > END) and trace.num_accepted_tokens == max(0, len(tokens) - 2)
        assert ("limit" in trace.flags) == (0 < limit <= END)


@pytest.mark.parametrize("label", ALL)
def test_fault_22_what_was_emitted_is_tokens_per_call_times_calls(label: str) -> None:
    """Nothing behind an end token or a limit is counted."""
    for seed in (4, 14):
        scene = make_scene(seed)
        row_sampling = RowSampling.of(SamplingConfig(0.5, seed=seed), range(len(scene.requests)))
        tokens, traces = scene.run([label], row_sampling=row_sampling)
        for said, trace in zip(tokens, traces):
            assert tiny.EOS not in said[:-1]
            assert trace.tokens_per_call is not None
            assert trace.tokens_per_call * trace.calls == pytest.approx(len(said))
            own = len(said) - trace.num_accepted_tokens  # a token of the trunk's a call, but of the last
            assert trace.calls - 1 <= own <= trace.calls
            if trace.mean_acceptance_length is not None:
                assert (trace.mean_acceptance_length - 1) * trace.num_drafts <= len(said)


TINY: dict[str, Any] = {
    "vocab_size": 11, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("family", ["Mamba", "Jamba", "Qwen3Next"])
def test_fault_24_trunks_whose_state_cannot_be_rolled_back_are_refused(family: str) -> None:
    config = getattr(transformers, f"{family}Config")(**TINY)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with pytest.raises(ConfigError, match=r"linear_attention layers; only full attention is supported"):
        Trunk(model)


def test_fault_28_a_repetition_penalty_lowers_probabilities_whatever_the_sign() -> None:
    """At every node, and once for a token that stands there twice."""
    logits = torch.tensor([1.5, -1.5, 0.5, -0.5], dtype=torch.float64).expand(1, 3, 4)
    processors = SamplingConfig(repetition_penalty=1.3).processors()
    assert processors is not None
    prefixes = [[], [0, 1], [1, 1, 0, 0, 1]]
    probs = processors(logits, lambda: [prefixes]).softmax(-1)[0]
    assert torch.equal(probs[0], logits[0, 0].softmax(-1)), "nothing was said yet"
    assert bool((probs[1, :2] < probs[0, :2]).all()) and bool((probs[1, 2:] > probs[0, 2:]).all())
    assert torch.equal(probs[1], probs[2])


class Grammar:
    """Behind a token only larger ones or the end token, by the prefix alone: every call starts anew."""

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Cut off the others."""
        last = ids[:, -1:] if ids.shape[1] else torch.full((len(ids), 1), -1)
        vocab = torch.arange(logits.shape[-1])
        return logits.masked_fill((vocab <= last) & (vocab != tiny.EOS), -torch.inf)


class Stateful(Grammar):
    """The same, but the last token is remembered from the call before, as matchers of grammars do."""

    last = -1

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Right in plain decoding of one row, where calls and tokens go together."""
        out = super().__call__(torch.full((len(ids), 1), self.last), logits)
        self.last = int(out[-1].argmax())
        return out


def test_fault_29_a_grammar_reads_prefixes_and_is_as_it_was_after_refused_drafts() -> None:
    """One that advances by calls is right without drafts alone: processors have to be pure functions."""
    broken = 0
    for seed in range(8):
        scene = make_scene(seed)
        scene = replace(scene, requests=[replace(scene.requests[0], ids=())])
        plain, _ = scene.run(["ar"], row_sampling=RowSampling(Processors([Grammar()])))
        assert all(a < b for a, b in zip(plain[0][:-1], plain[0][1:-1])), "the grammar holds"
        processors = Processors([Grammar()])
        for label in ("verify", "dynamic-tree", scene.tree(), "ctc", "draft-model"):
            for _ in range(2):
                assert scene.run([label], row_sampling=RowSampling(processors))[0] == plain, label
        assert scene.run(["ar"], row_sampling=RowSampling(Processors([Stateful()])))[0] == plain
        with_drafts, _ = scene.run([scene.tree()], row_sampling=RowSampling(Processors([Stateful()])))
        broken += with_drafts != plain
    assert broken > 3
