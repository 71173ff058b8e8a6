"""Head d at index t predicts x_{t+1+d}, and what is trained is the layout of decoding."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from engine_runs import Limits, generate
from tiny import BOS, EOS, VOCAB, frames, heads, randomise, speech_lm
from torch import Tensor

from speechmtp.decoding.noise import Noise
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.sampling import PickedTokens, pick_tokens
from speechmtp.decoding.state import DecodeState
from speechmtp.decoding.strategies import make_strategy
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.adapter import AdapterConfig, AudioPrompt, CtcMergeConfig, StackConfig
from speechmtp.models.encoder import EncoderConfig
from speechmtp.models.encoder_lm import EncoderLM, ModelConfig
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.training import multi_token as module
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import pad_text
from speechmtp.training.tasks.trunk_loss import trunk_loss
from speechmtp.types import Accepted, Draft

SENTENCE = [4, 7, 3, 9, 4, 5, 8, 3, 6, 10, 5, 7]
DEPTH = 3


def trained_logits(
    model: EncoderLM, head_set: HeadSet, audio: AudioPrompt, texts: list[list[int]], patch: pytest.MonkeyPatch
) -> Tensor:
    """Logits [B, L, D + 1, V] at the entries of the text that the training loss is computed from, NaN where a depth
    has no label. The labels on the way are those of plain counting."""
    caught: list[tuple[Tensor, Tensor]] = []

    def catch(logits: Tensor, labels: Tensor, *rest: Any) -> Tensor:
        caught.append((logits, labels))
        return logits.sum()

    patch.setattr(module, "rows_ce", catch)
    with torch.no_grad():
        trunk_loss(model, head_set, audio, *pad_text(texts, BOS, EOS), MultiTokenConfig())
    patch.undo()
    rows = [[BOS, *text, EOS] for text in texts]
    found = caught[0][0].new_full((len(rows), max(map(len, rows)), head_set.depth + 1, VOCAB), torch.nan)
    assert len(caught) == head_set.depth + 1
    for d, (logits, labels) in enumerate(caught):
        places = [(b, t) for b, row in enumerate(rows) for t in range(len(row) - 1 - d)]
        assert labels.tolist() == [rows[b][t + 1 + d] for b, t in places]
        for (b, t), probs in zip(places, logits):
            found[b, t, d] = probs
    return found


@pytest.fixture(scope="module")
def memorised() -> tuple[EncoderLM, HeadSet, AudioPrompt]:
    """A model trained on one sentence behind one audio prompt."""
    torch.manual_seed(0)
    sizes = EncoderConfig(features=16, width=8, layers=1, heads=2, ff_width=8, kernel=3, channels=2)
    config = ModelConfig(sizes, trunk=ScratchTrunkConfig(width=32, layers=1, heads=2, ff_width=64))
    model = EncoderLM(config, VOCAB, BOS)
    head_set = build_heads(LatentHeadsConfig(depth=DEPTH), model.trunk.shape)
    audio = AudioPrompt(torch.randn(1, 5, 32), torch.arange(5)[None], torch.tensor([5]), torch.tensor([0]))
    ids, lengths = pad_text([SENTENCE], BOS, EOS)
    parameters = [*model.trunk.parameters(), *head_set.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        loss, _ = trunk_loss(model, head_set, audio, ids, lengths, MultiTokenConfig(scale=1.0, decay=1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 1.0
    return model.eval(), head_set.eval(), audio


def test_each_head_predicts_the_token_of_its_depth(
    memorised: tuple[EncoderLM, HeadSet, AudioPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = trained_logits(*memorised, [SENTENCE], monkeypatch).argmax(-1)[0]
    ids = [BOS, *SENTENCE, EOS]
    for d in range(DEPTH + 1):
        known = len(ids) - 1 - d
        assert best[:known, d].tolist() == ids[1 + d :], f"depth {d}"
        assert best[: known - 1, d].tolist() != ids[2 + d :]  # one further would not do


@pytest.mark.parametrize(("name", "calls"), [("ar", 13), ("verify", 1 + 3)])
def test_the_sentence_is_decoded_with_as_few_calls_as_the_depth_allows(
    memorised: tuple[EncoderLM, HeadSet, AudioPrompt], name: str, calls: int
) -> None:
    model, head_set, audio = memorised
    strategy = make_strategy(name, {"depth": DEPTH} if name == "verify" else {})
    assert strategy.drafter is not None and strategy.rule is not None
    prompt = model.close_prompt(audio)
    tokens, traces = generate(model.trunk, head_set, prompt, strategy.drafter, strategy.rule, EOS)
    assert tokens == [[*SENTENCE, EOS]]
    assert traces[0].calls == calls  # 13 tokens: one from the prompt's call, then blocks of 4


@dataclass(frozen=True, eq=False)
class Watched(GreedyMatch):
    """Greedy match that notes the target logits it is shown."""

    by_argmax: ClassVar[bool] = False
    seen: list[Tensor] = field(default_factory=list)

    def accept(self, target: Tensor, draft: Draft, noise: Noise | None, drawn: Tensor | None) -> Accepted:
        self.seen.append(target)
        return super().accept(target, draft, noise, drawn)


def ragged_prompt(adapter: AdapterConfig) -> tuple[EncoderLM, AudioPrompt]:
    """Audio prompts of three lengths from random features."""
    model = speech_lm(3, adapter)
    with torch.no_grad():
        model.encoder.ctc.bias[-1] += 1.0  # blanks between labels
        model.trunk.embed(torch.tensor(0))
        out = model.encode_audio(*frames([61, 24, 40], 1))
        return model, model.adapter(model.adapter.segments(out))


@pytest.mark.parametrize("adapter", [CtcMergeConfig(), StackConfig(frames=3, hidden=8)], ids=["merge", "stack"])
@pytest.mark.parametrize("never_ends", [True, False])
def test_teacher_forced_logits_are_those_of_incremental_decoding(
    adapter: AdapterConfig, never_ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, audio = ragged_prompt(adapter)
    assert len(set(audio.lengths.tolist())) == 3
    head_set = heads("latent", DEPTH, 4)
    eos = VOCAB if never_ends else EOS
    strategy = make_strategy("ar", {})
    assert strategy.drafter is not None
    rule = Watched()
    limits = Limits(0.0, 12)
    with torch.no_grad():
        tokens, _ = generate(model.trunk, None, model.close_prompt(audio), strategy.drafter, rule, eos, limits=limits)
    texts = [[t for t in row if t != eos] for row in tokens]
    teacher = trained_logits(model, head_set, audio, texts, monkeypatch)
    assert teacher.dtype == torch.float64
    checked = 0
    for call, target in enumerate(rule.seen):
        live = [row for row in range(3) if len(tokens[row]) > call]
        assert len(live) == len(target)
        for place, row in enumerate(live):
            assert torch.allclose(target[place, 0], teacher[row, call, 0], atol=1e-6, rtol=0)
            checked += 1
    assert checked == sum(map(len, tokens)) > 3


@pytest.mark.parametrize("adapter", [CtcMergeConfig(), StackConfig(frames=3, hidden=8)], ids=["merge", "stack"])
def test_heads_see_in_decoding_what_they_were_trained_on(
    adapter: AdapterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, audio = ragged_prompt(adapter)
    head_set = heads("latent", DEPTH, 4)
    drafts: list[tuple[list[int], list[int], Tensor]] = []

    def watched(state: DecodeState, logits: Tensor, *rest: Any) -> PickedTokens:
        drafts.append(([r.slot for r in state.rows], [len(r.tokens) for r in state.rows], logits))
        return pick_tokens(state, logits, *rest)

    monkeypatch.setattr("speechmtp.decoding.drafters.heads.pick_tokens", watched)
    strategy = make_strategy("verify", {"depth": DEPTH})
    assert strategy.drafter is not None and strategy.rule is not None
    with torch.no_grad():
        prompt = model.close_prompt(audio)
        tokens, _ = generate(
            model.trunk, head_set, prompt, strategy.drafter, strategy.rule, VOCAB, limits=Limits(0.0, 10)
        )
    monkeypatch.undo()
    followed = [[*row, *[3] * DEPTH] for row in tokens]  # so that every depth has a label at every draft
    teacher = trained_logits(model, head_set, audio, followed, monkeypatch)
    assert len(drafts) > 3
    for rows, emitted, logits in drafts:
        for place, (row, count) in enumerate(zip(rows, emitted)):
            # Of `count` emitted tokens the last is not fed yet: the newest state is that of index count - 1.
            assert torch.allclose(logits[place], teacher[row, count - 1, 1:], atol=1e-6, rtol=0)


def test_text_hears_the_audio_and_padding_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    model, audio = ragged_prompt(CtcMergeConfig())
    head_set = heads("latent", DEPTH, 4)
    texts = [[3, 4, 5, 6, 7], [6, 7, 8, 9], [7, 8, 9, 3]]
    before = trained_logits(model, head_set, audio, texts, monkeypatch)
    inside, outside = audio.embeddings.clone(), audio.embeddings.clone()
    row = int(audio.lengths.argmin())
    inside[row, 0] += 1.0
    outside[row, int(audio.lengths[row]) :] += 1.0
    moved = trained_logits(model, head_set, AudioPrompt(inside, *_rest(audio)), texts, monkeypatch)
    still = trained_logits(model, head_set, AudioPrompt(outside, *_rest(audio)), texts, monkeypatch)
    assert float((moved[row, :2] - before[row, :2]).abs().min(-1).values.max()) > 0
    assert torch.equal(moved[row - 1].nan_to_num(), before[row - 1].nan_to_num())
    assert not bool(before[row, :2].isnan().any())
    assert torch.allclose(still[row, :2], before[row, :2], atol=1e-12)


def _rest(audio: AudioPrompt) -> tuple[Tensor, Tensor, Tensor]:
    return audio.positions, audio.lengths, audio.text_position


def test_padded_rows_have_the_loss_of_the_row_alone() -> None:
    model, audio = ragged_prompt(CtcMergeConfig())
    head_set = heads("latent", DEPTH, 4)
    randomise(head_set, 2)
    texts = [[3, 4, 5, 6, 7, 8], [6, 3, 9, 4, 5, 7], [7, 8, 5, 4, 3, 9]]
    config = MultiTokenConfig()
    with torch.no_grad():
        together, _ = trunk_loss(model, head_set, audio, *pad_text(texts, BOS, EOS), config)
        alone = 0.0
        for row, text in enumerate(texts):
            size, one = int(audio.lengths[row]), slice(row, row + 1)
            part = AudioPrompt(
                audio.embeddings[one, :size], audio.positions[one, :size], audio.lengths[one], audio.text_position[one]
            )
            alone += float(trunk_loss(model, head_set, part, *pad_text([text], BOS, EOS), config)[0])
    assert float(together) == pytest.approx(alone, rel=1e-6)
