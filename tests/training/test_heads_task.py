"""Task `heads`: what each mode moves, whose distribution is kept, and that a stopped training goes on to the same
bits."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from speechmtp.errors import ConfigError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet
from speechmtp.models.lora import PROJECTIONS, Lora
from speechmtp.training.loop import LoopConfig, TrainingStopped
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.head_inputs.encoded_prompts import EncodedPrompt, EncodedPrompts
from speechmtp.training.tasks.heads import HeadsPhase, HeadsTrainConfig, train_heads

MODES = ("frozen", "joint", "lora", "two_stage")
CONFIG = HeadsTrainConfig(
    heads=ChainHeadsConfig(depth=2, dropout=0.1), steps=6, rows=3, anchors=2, lora_rank=2,
    optim=OptimConfig(lr=1e-2, warmup=1, schedule="cosine", ema=0.9),
    loop=LoopConfig(evaluate_every=2, save_every=2, average=2),
)  # fmt: skip


class Training:
    """A tiny trunk, heads and prompts; `told` notes whether the trunk had moved at each evaluation."""

    def __init__(self, mode: str = "frozen", **settings: Any) -> None:
        self.config = replace(CONFIG, mode=mode, **settings)
        self.trunk = tiny.trunk(0, gain=1.0)
        self.heads: HeadSet = tiny.heads("chain", 2, 1, dropout=0.1)
        rng = tiny.generator(0)
        items = []
        for i in range(9):
            size = 2 + i % 3
            audio = torch.randn(size, tiny.WIDTH, generator=rng, dtype=torch.float64)
            items.append(EncodedPrompt(audio, torch.arange(size), 0, [3 + i % 8, 5, 7, 4, 6][: 2 + i % 4]))
        self.data = EncodedPrompts(self.trunk, items, 3, tiny.BOS, tiny.EOS, 0)
        self.told: list[bool] = []

    def evaluate(self, heads: HeadSet, moved: bool) -> dict[str, float]:
        assert not heads.training and not self.trunk.training
        self.told.append(moved)
        return {"score": float(sum(p.abs().sum() for p in heads.parameters()))}

    def run(self, out: Path, resume: bool = False) -> "Training":
        figures = train_heads(
            self.config, self.trunk, self.heads, self.data, self.evaluate, torch.float32, out, resume
        )  # fmt: skip
        assert figures["score"] > 0
        return self

    def phase(self, lora: Lora | None = None) -> HeadsPhase:
        arguments = (self.trunk, self.heads, self.data, self.evaluate, torch.float32)
        return HeadsPhase(self.config, "one", 2, *arguments, self.config.mode != "frozen", lora)

    def states(self) -> Tensor:
        """Trunk states of the prompts."""
        rows = self.data.sequences(self.data.batch(0))
        with torch.no_grad():
            return self.trunk(rows.embeddings, rows.positions, rows.segments).hidden


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that differ by more than the mean of equal numbers may."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.allclose(before[name], after[name], rtol=1e-14, atol=0)}


def assert_same(one: Training, other: Training) -> None:
    """Two trainings left the same bits."""
    for a, b in ((one.trunk, other.trunk), (one.heads, other.heads)):
        first, second = weights(a), weights(b)
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", tiny.TRUNKS)
def test_adapters_off_are_the_trunk_before_and_merged_are_the_trunk_with_them(family: str) -> None:
    pytest.importorskip("peft")
    training = Training()
    training.trunk = training.data._trunk = tiny.trunk(0, family)
    before, names = training.states(), set(training.trunk.state_dict())
    lora = Lora(training.trunk.model, 2, 4)
    assert torch.equal(training.states(), before)  # adapters start at nothing
    rng = tiny.generator(0)
    with torch.no_grad():
        for name, weight in training.trunk.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=rng, dtype=torch.float64))
    on = training.states()
    assert float((on - before).abs().max()) > 0.1
    with lora.off():
        assert torch.equal(training.states(), before)
    assert torch.equal(training.states(), on)
    lora.merge()
    assert set(training.trunk.state_dict()) == names
    torch.testing.assert_close(training.states(), on, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_moves_what_it_should(mode: str, tmp_path: Path) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    training = Training(mode)
    trunk, heads = weights(training.trunk), weights(training.heads)
    training.run(tmp_path)
    moved = changed(trunk, weights(training.trunk))
    assert changed(heads, weights(training.heads)) >= {
        name for name in heads if "weight" in name and "reads" not in name
    }
    if mode == "frozen":
        assert not moved
    elif mode == "lora":
        assert {name.split(".")[-2] for name in moved} == set(PROJECTIONS)
    else:
        assert moved == set(trunk)
    assert set(training.told) == ({False, True} if mode == "two_stage" else {mode != "frozen"})
    assert sorted(training.told) == training.told
    assert not any(p.requires_grad for p in training.trunk.parameters())
    assert not training.trunk.training and not training.heads.training


@pytest.mark.parametrize("mode", ["joint", "lora"])
def test_a_kept_distribution_costs_nothing_before_the_first_update(mode: str) -> None:
    """And afterwards it is still the distribution before training that is asked for."""
    if mode == "lora":
        pytest.importorskip("peft")
    training = Training(mode, kl_to_base=True)
    lora = Lora(training.trunk.model, 2, 4) if mode == "lora" else None
    phase = training.phase(lora)
    batch = phase.batch(0)
    first = phase.loss(batch, 0)[1]["ce"]
    assert abs(first) < 1e-9 * training.data.count(batch)
    labels = replace(training.config, kl_to_base=False)
    training.config = labels
    assert training.phase(lora).loss(batch, 0)[1]["ce"] > 1.0
    with torch.no_grad():
        for parameter, factor in phase.parameters():
            if factor != 1.0:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=tiny.generator(1), dtype=torch.float64))
    moved, again = (phase.loss(batch, 1)[1]["ce"] for _ in range(2))
    assert moved == again > 0.1


def test_a_kept_distribution_pulls_the_trunk_back() -> None:
    training = Training("joint", kl_to_base=True, loss=MultiTokenConfig(scale=0.0))
    phase = training.phase()
    batch = phase.batch(0)
    with torch.no_grad():
        for parameter in training.trunk.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=tiny.generator(1), dtype=torch.float64))
    optimiser = torch.optim.SGD(training.trunk.parameters(), 0.02)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss, parts = phase.loss(batch, 0)
        (loss / phase.weight(batch)).backward()
        optimiser.step()
        losses.append(parts["ce"])
    assert losses[-1] < 0.5 * losses[0]


def test_the_trunk_learns_at_its_own_rate() -> None:
    training = Training("joint", trunk_factor=0.25)
    factors = {id(parameter): factor for parameter, factor in training.phase().parameters()}
    assert {factors[id(p)] for p in training.heads.parameters()} == {1.0}
    assert {factors[id(p)] for p in training.trunk.parameters()} == {0.25}
    training = Training("frozen")
    assert len(list(training.phase().parameters())) == len(list(training.heads.parameters()))


@pytest.mark.parametrize(
    ("share", "steps"), [(0.5, {"frozen": 3, "joint": 3}), (1.0, {"frozen": 6}), (0.0, {"joint": 6})]
)
def test_two_stages_train_heads_alone_and_then_both(share: float, steps: dict[str, int], tmp_path: Path) -> None:
    training = Training("two_stage", first_share=share, loss=MultiTokenConfig(warmup=100))
    before = weights(training.trunk)
    training.run(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(steps)
    for name, count in steps.items():
        assert f'"steps": {count}' in (tmp_path / name / "final.json").read_text()
    assert bool(changed(before, weights(training.trunk))) == ("joint" in steps)
    if share == 0.5:  # the warm-up is the trunk's; heads that learn alone do it at full weight
        rows = [(tmp_path / name / "train.jsonl").read_text().splitlines()[0] for name in steps]
        losses = [float(row.split('"loss": ')[1].split(",")[0].rstrip("}")) for row in rows]
        assert losses[0] > 0.3


@pytest.mark.parametrize("mode", MODES)
def test_a_stopped_training_goes_on_to_the_same_bits(mode: str, tmp_path: Path) -> None:
    if mode == "lora":
        pytest.importorskip("peft")
    whole = Training(mode, kl_to_base=mode == "two_stage").run(tmp_path / "whole")
    for stop in (1, 4):  # updates into this run; the second one is in another phase of two stages
        training = Training(mode, kl_to_base=mode == "two_stage")
        _signal_at(training, stop)
        with pytest.raises(TrainingStopped, match="resume it"):
            training.run(tmp_path / "stopped", resume=True)
    last = Training(mode, kl_to_base=mode == "two_stage").run(tmp_path / "stopped", resume=True)
    assert_same(whole, last)
    done = Training(mode)
    done.data.batch = None  # type: ignore[assignment, method-assign]  # nothing is left to train
    done.run(tmp_path / "whole", resume=True)
    assert_same(whole, done)


def _signal_at(training: Training, update: int) -> None:
    real, seen = training.data.batch, [0]

    def batch(number: int) -> list[EncodedPrompt]:
        seen[0] += 1
        if seen[0] == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(number)

    training.data.batch = batch  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0, expected 1 or more"), ({"anchors": -1}, "anchors=-1, expected 0 or more"),
        ({"first_share": 1.5}, "first_share=1.5"), ({"size": 8, "prompt_tokens": 8}, "size 8, expected 9 or more"),
        ({"heads": ChainHeadsConfig(depth=0)}, "depth 0 has nothing to train"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        replace(CONFIG, **settings)
    assert len(str(caught.value)) < 120
