"""Depths one after another: the gradients are those of the sum, and only one depth's graph stands at a time."""

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from small_sequences import sequences
from torch import Tensor

from speechmtp.heads.contract import HeadSet
from speechmtp.heads.table import FAMILIES
from speechmtp.models.trunk import Trunk
from speechmtp.training.losses import Kind, MultiTokenConfig
from speechmtp.training.multi_token import multi_token_loss
from speechmtp.training.sequential import one_by_one

INDEPENDENT: list[tuple[str, dict[str, Any]]] = [
    (family.kind, options)  # type: ignore[attr-defined]
    for family, heads in FAMILIES.items()
    if heads.independent
    for options in ({}, {"taps": (0, 1)}, {"taps": (1, 2), "mix": "weighted", "shortlist": 6})
]


def gradients(trunk: Trunk, heads: HeadSet, config: MultiTokenConfig, frozen: bool) -> dict[str, Tensor]:
    """Value and gradients of all parameters, by name."""
    modules = {"trunk": trunk, "heads": heads}
    for module in modules.values():
        module.zero_grad(set_to_none=True)
    loss, _ = multi_token_loss(trunk, heads, sequences(trunk), config, frozen=frozen)
    (loss / 7).backward()
    found = {f"{m}.{name}": p.grad for m, module in modules.items() for name, p in module.named_parameters()}
    return {"value": loss.detach()} | {name: g for name, g in found.items() if g is not None}


@pytest.mark.parametrize(("kind", "options"), INDEPENDENT)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("loss", ["ce", "lk_hybrid"])
def test_one_by_one_equals_the_sum_of_all_in_float32(
    kind: str, options: dict[str, Any], frozen: bool, loss: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, heads = tiny.trunk(0, gain=1.0).float(), tiny.heads(kind, 3, 1, **options).float()
    config = MultiTokenConfig(kind=loss, scale=1.0)
    assert heads.independent
    sequential = gradients(trunk, heads, config, frozen)
    monkeypatch.setattr(type(heads), "independent", False)
    joint = gradients(trunk, heads, config, frozen)
    assert sequential.keys() == joint.keys()
    assert any(name.startswith("trunk") for name in joint) == (not frozen)
    assert ("trunk.model.model.embed_tokens.weight" in joint) == (not frozen), "the unembedding, which is shared"
    assert {name for name in joint if name.startswith("heads")} == {f"heads.{n}" for n, _ in heads.named_parameters()}
    for name, expected in joint.items():
        error = (sequential[name] - expected).norm() / expected.norm().clamp_min(1e-12)
        assert float(error) < 1e-6, name
        assert float(expected.norm()) > 0, name


def test_a_depth_is_freed_before_the_next_is_computed() -> None:
    standing: list[int] = []
    alive: list[Tensor] = []

    class Count(torch.autograd.Function):
        """Counts the graphs that stand."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            alive.append(x)
            standing.append(len(alive))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            alive.pop()
            return gradient

    weight = torch.ones(3, requires_grad=True)

    def losses(hidden: Tensor, taps: Tensor | None) -> Iterator[Tensor]:
        for d in range(4):
            yield (Count.apply(hidden) * weight * d).sum()  # type: ignore[no-untyped-call]

    hidden = torch.arange(3.0).requires_grad_()
    parameter = torch.nn.Parameter(weight)
    total = one_by_one(losses, hidden, None, [parameter])
    assert standing == [1, 1, 1, 1] and total.item() == 6 * 3
    total.backward()
    assert hidden.grad is not None and hidden.grad.tolist() == [6.0] * 3


def test_the_scale_of_the_whole_reaches_every_part() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    hidden = torch.tensor([1.0, 4.0], requires_grad=True)
    taps = torch.tensor([5.0, 6.0], requires_grad=True)
    unused = torch.nn.Parameter(torch.ones(1))

    def losses(h: Tensor, t: Tensor | None) -> Iterator[Tensor]:
        assert t is not None
        yield (h * weight).sum()
        yield (t * weight).sum()

    (10 * one_by_one(losses, hidden, taps, [weight, unused])).backward()
    assert hidden.grad is not None and hidden.grad.tolist() == [20.0, 30.0]
    assert taps.grad is not None and taps.grad.tolist() == [20.0, 30.0]
    assert weight.grad is not None and weight.grad.tolist() == [60.0, 100.0]
    assert unused.grad is None


def test_gradients_can_be_taken_once() -> None:
    """They are scaled where they stand: a second pass would scale them twice."""
    hidden = torch.ones(3, requires_grad=True)
    total = one_by_one(lambda h, t: iter([h.sum()]), hidden, None, [])
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass, expected one"):
        total.backward()


def test_without_gradients_the_losses_are_added_up_alone() -> None:
    """A development loss runs no backward pass."""
    seen: list[bool] = []

    def losses(h: Tensor, t: Tensor | None) -> Iterator[Tensor]:
        seen.append(torch.is_grad_enabled())
        yield h.sum()
        yield 2 * h.sum()

    with torch.no_grad():
        total = one_by_one(losses, torch.ones(3, requires_grad=True), None, [torch.nn.Parameter(torch.ones(1))])
    assert seen == [False] and total.item() == 9 and not total.requires_grad
    with torch.no_grad():
        assert one_by_one(lambda h, t: iter(()), torch.ones(3), None, []).item() == 0
