"""The adapters of LoRA: where they are put, how they start, and that they leave a plain model."""

import builtins
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from speechmtp.errors import ConfigError
from speechmtp.models.lora import PROJECTIONS, Lora
from speechmtp.models.trunk import Trunk

pytest.importorskip("peft", reason="LoRA needs the extra `train`")
RANK, ALPHA = 2, 6


def states(trunk: Trunk) -> Tensor:
    """Trunk states of one text."""
    ids = torch.tensor([[1, 4, 5, 6, 7]])
    with torch.no_grad():
        return trunk(trunk.embed(ids), torch.arange(5)[None], torch.zeros_like(ids)).hidden


def test_targets_are_the_projections_unless_others_are_named() -> None:
    trunk = tiny.trunk(0)
    Lora(trunk.model, RANK, ALPHA)
    assert {name.split(".")[-4] for name, _ in trunk.named_parameters() if "lora_A" in name} == set(PROJECTIONS)
    trunk = tiny.trunk(0)
    wanted = [name for name, _ in trunk.model.named_modules() if name.endswith("layers.0.self_attn.q_proj")]
    lora = Lora(trunk.model, RANK, ALPHA, wanted)
    [adapter] = lora.adapters()
    assert adapter["down"].shape == (RANK, tiny.WIDTH) and adapter["up"].shape[1] == RANK  # type: ignore[index]
    assert {name for name, p in trunk.named_parameters() if p.requires_grad} == {
        f"model.{wanted[0]}.lora_{side}.default.weight" for side in "AB"
    }


def test_adapters_share_the_models_parameters() -> None:
    """What is stored and loaded through `adapters` is what the model computes with."""
    trunk = tiny.trunk(0)
    lora = Lora(trunk.model, RANK, ALPHA)
    before, adapters = states(trunk), lora.adapters()
    names = list(adapters.state_dict())
    assert names[:2] == ["0.down", "0.up"] and len(names) == 2 * len(adapters)
    adapters.load_state_dict({name: torch.full_like(value, 0.1) for name, value in adapters.state_dict().items()})
    assert not torch.equal(states(trunk), before)
    trained = {id(p) for p in trunk.parameters() if p.requires_grad}
    assert trained == {id(p) for p in adapters.parameters()}


def test_an_adapter_adds_its_scaled_product() -> None:
    trunk = tiny.trunk(0)
    place = "layers.0.self_attn.q_proj"
    plain = trunk.model.get_decoder().get_submodule(place).weight.detach().clone()
    lora = Lora(trunk.model, RANK, ALPHA, [place])
    [adapter] = lora.adapters()
    torch.nn.init.normal_(adapter["up"])  # type: ignore[index]
    expected = plain + ALPHA / RANK * (adapter["up"] @ adapter["down"]).detach()  # type: ignore[index]
    lora.merge()
    torch.testing.assert_close(trunk.model.get_decoder().get_submodule(place).weight, expected, rtol=1e-12, atol=1e-12)
    assert not any("lora" in name or "base_layer" in name for name in trunk.state_dict())


def test_normal_starts_depend_on_the_seed_alone() -> None:
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        lora = Lora(tiny.trunk(0).model, RANK, ALPHA)
        lora.draw_normal(seed)
        found.append(torch.cat([adapter["down"].detach().flatten() for adapter in lora.adapters()]))  # type: ignore[index]
        assert not any(bool(adapter["up"].any()) for adapter in lora.adapters())  # type: ignore[index]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert float(found[0].std()) == pytest.approx(tiny.WIDTH**-0.5, rel=0.2)


def test_normal_starts_are_drawn_in_the_models_order() -> None:
    lora = Lora(tiny.trunk(0).model, RANK, ALPHA)
    lora.draw_normal(5)
    generator = torch.Generator().manual_seed(5)
    for adapter in lora.adapters():
        down = adapter["down"]  # type: ignore[index]
        drawn = torch.empty_like(down).normal_(std=down.shape[1] ** -0.5, generator=generator)
        assert torch.equal(down, drawn)


def test_without_peft_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "peft":
            raise ImportError("no module named peft")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"needs peft; pip install 'speechmtp\[train\]'"):
        Lora(tiny.trunk(0).model, RANK, ALPHA)
