"""Phase `ctc`: infeasible utterances, accumulation, draws, development figures."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_speech import ctc_config, letter_data, small_encoder, write_speech
from torch import Tensor, nn

from speechmtp.audio.augment import SpecAugmentConfig
from speechmtp.data.batch import BatchConfig
from speechmtp.errors import DataError
from speechmtp.models.encoder import Encoder
from speechmtp.training.tasks.ctc import (
    AudioData,
    AugmentConfig,
    ChunkConfig,
    CtcPhase,
    CtcPhaseConfig,
    augment,
    ctc_error_rate,
    evaluation_batches,
    set_statistics,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> AudioData:
    return letter_data(write_speech(tmp_path_factory.mktemp("speech") / "train", 12))


def phase_of(data: AudioData, config: CtcPhaseConfig, **encoder: Any) -> CtcPhase:
    built = small_encoder(**encoder)
    set_statistics(built, data)
    return CtcPhase(config, built, data, data, 0, torch.float32)


def plain(config: CtcPhaseConfig) -> CtcPhaseConfig:
    """Without any random draw."""
    still = AugmentConfig(SpecAugmentConfig(freq_masks=0, time_masks=0), warp=0.0, gain=0.0)
    return replace(config, augment=still, chunk=ChunkConfig(full=1.0), consistency=0.0)


def table(seconds: list[float], labels: list[list[int]]) -> AudioData:
    names = [f"u{i:03d}" for i in range(len(seconds))]
    return AudioData(None, dict(zip(names, labels)), dict(zip(names, seconds)))  # type: ignore[arg-type]


def test_utterances_too_short_for_ctc_are_counted_and_left_out() -> None:
    seconds, labels = [1.0] * 400, [[3, 4, 5]] * 400
    seconds[7], seconds[9] = 0.1, 0.2  # 7 and 17 frames: 1 and 4 steps
    labels[9] = [3, 3, 4]  # four steps are enough for these, at its own speed
    kept = table(seconds, labels).usable(1.0, 4, 0.01)
    assert kept.dropped == ("u007",) and len(kept.tokens) == len(kept.durations) == 399
    faster = table(seconds, labels).usable(1.1, 4, 0.01)
    assert faster.dropped == ("u007", "u009")
    assert faster.tokens.keys() == faster.durations.keys()


@pytest.mark.parametrize(("count", "fails"), [(400, False), (399, True)])
def test_more_than_half_a_percent_of_them_is_an_error(count: int, fails: bool) -> None:
    seconds, labels = [1.0] * count, [[3, 4]] * count
    seconds[0] = seconds[5] = 0.05
    if fails:
        with pytest.raises(DataError, match=r"2 of 399 utterances.*u000"):
            table(seconds, labels).usable(1.0, 4, 0.01)
    else:
        assert table(seconds, labels).usable(1.0, 4, 0.01).dropped == ("u000", "u005")


def test_every_kept_utterance_has_enough_encoder_steps(data: AudioData) -> None:
    """The estimate from durations never exceeds what the features give."""
    for name, seconds in data.durations.items():
        for speed in (0.9, 1.0, 1.1):
            steps = len(data.store.get(name, speed)) // 4
            assert int((seconds / speed - 0.025) / 0.01) // 4 <= steps


def test_the_phase_leaves_out_and_reports_what_is_too_short(data: AudioData) -> None:
    tokens, durations = dict(data.tokens), dict(data.durations)
    for number in range(250):
        tokens[f"x{number}"], durations[f"x{number}"] = [3], 1.0
    tokens["x1"] = [3] * 40
    phase = CtcPhase(ctc_config(1), small_encoder(), AudioData(data.store, tokens, durations), data, 0, torch.float32)
    assert phase.dropped == ("x1",)
    assert "x1" not in {name for n in range(300) for name, _ in phase._plan.batch(n)}


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def test_four_micro_batches_of_two_give_the_gradients_of_one_of_eight(data: AudioData) -> None:
    phase = phase_of(data, plain(ctc_config(1)), dropout=0.0)
    items = [(name, 1.0) for name in sorted(data.tokens)[:8]]
    weight = sum(len(data.tokens[name]) for name, _ in items)
    assert len({len(data.store.get(*item)) for item in items}) > 3  # ragged
    whole = data.collate(items)
    assert phase.weight(whole) == weight
    (phase.loss(whole, 0)[0] / weight).backward()
    expected = gradients(phase.module)
    for start in range(0, 8, 2):
        (phase.loss(data.collate(items[start : start + 2]), 0)[0] / weight).backward()
    found = gradients(phase.module)
    assert found.keys() == expected.keys() and len(found) > 40
    for name in found:
        assert torch.allclose(found[name], expected[name], atol=1e-6, rtol=1e-4), name


def test_augmented_views_are_drawn_by_the_loops_seed_alone(data: AudioData) -> None:
    phase = phase_of(data, ctc_config(1))
    batch = phase.batch(0)
    losses = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(float(phase.loss(batch, 3)[0].detach()))
    assert losses[0] == losses[1] != losses[2]


def test_two_views_agree_when_nothing_is_drawn(data: AudioData) -> None:
    one = phase_of(data, plain(ctc_config(1)), dropout=0.0)
    two = phase_of(data, replace(plain(ctc_config(1)), consistency=0.5), dropout=0.0)
    batch = one.batch(0)
    first, second = (phase.loss(batch, 100) for phase in (one, two))
    assert second[1]["consistency"] == pytest.approx(0, abs=1e-4)
    assert float(first[0].detach()) == pytest.approx(float(second[0].detach()), rel=1e-5)


def test_augmentation_is_a_function_of_its_generator_and_spares_the_input() -> None:
    frames, lengths = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([40, 20, 30])
    before = frames.clone()
    views = [augment(frames, lengths, AugmentConfig(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    assert torch.equal(frames, before)


def test_statistics_make_training_audio_standard(data: AudioData) -> None:
    encoder = small_encoder()
    set_statistics(encoder, data)
    frames = (torch.cat([data.store.get(name) for name in data.tokens]) - encoder.mean) / encoder.std
    assert float(frames.mean(0).abs().max()) < 1e-3
    assert float((frames.std(0) - 1).abs().max()) < 1e-2
    assert {"mean", "std"} <= encoder.state_dict().keys()  # they travel with the model


def test_development_figures_cover_every_utterance_once(data: AudioData) -> None:
    assert sorted(name for batch in evaluation_batches(data, 5) for name in batch.ids) == sorted(data.tokens)
    encoder = small_encoder()
    with torch.no_grad():
        encoder.ctc.bias[-1] += 50.0  # nothing but blanks: every token is deleted
    rate, loss = ctc_error_rate(encoder, data)
    assert rate == 1.0 and loss > 10


def test_a_few_hundred_updates_learn_the_letters(data: AudioData) -> None:
    config = replace(plain(ctc_config(1)), batch=BatchConfig(20.0, 12, (1.0,)))
    phase = phase_of(data, config, dropout=0.0, inter_ctc=())
    optimiser = torch.optim.AdamW(phase.module.parameters(), lr=1e-2)
    for step in range(120):
        batch = phase.batch(step)
        optimiser.zero_grad()
        (phase.loss(batch, step)[0] / phase.weight(batch)).backward()
        optimiser.step()
    assert isinstance(phase.module, Encoder)
    assert phase.evaluate()["ter"] < 20
