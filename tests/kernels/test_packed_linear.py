"""Linear maps of packed weights: the same map, whatever else is asked of the module."""

import copy
import io

import pytest
import torch
from torch import nn

import speechmtp
from speechmtp.kernels.cpu import packed_linear
from speechmtp.kernels.cpu.packed_linear import PackedLinear, has_packed, pack
from tests import tiny

pytestmark = pytest.mark.skipif(not has_packed(), reason="this build of PyTorch has no maps of packed weights")


def make(bias: bool = True) -> tuple[nn.Linear, PackedLinear]:
    torch.manual_seed(0)
    plain = nn.Linear(48, 96, bias)
    return plain, PackedLinear(plain)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (8,), (2, 3), (1, 1, 40), (0,)])
def test_it_is_the_map_of_the_same_parameters(bias: bool, shape: tuple[int, ...]) -> None:
    plain, packed = make(bias)
    assert packed.weight is plain.weight and packed.bias is plain.bias
    x = torch.randn(*shape, 48, generator=tiny.generator(1))
    with torch.inference_mode():
        found = packed(x)
        torch.testing.assert_close(found, plain(x), rtol=1e-5, atol=1e-5)
        assert packed._packed is not None and found.layout == torch.strided
        strided = torch.randn(48, *shape, generator=tiny.generator(2)).movedim(0, -1)
        torch.testing.assert_close(packed(strided), plain(strided), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_packed_again() -> None:
    plain, packed = make()
    x = torch.randn(3, 48, generator=tiny.generator(1))
    with torch.no_grad():
        packed(x)
        packed.weight.mul_(2)
        torch.testing.assert_close(packed(x), plain(x))
        packed.load_state_dict({"weight": torch.randn(96, 48), "bias": torch.zeros(96)})
        torch.testing.assert_close(packed(x), plain(x))
        packed.weight = nn.Parameter(torch.randn(96, 48))
        torch.testing.assert_close(packed(x), nn.functional.linear(x, packed.weight, packed.bias))


def test_gradients_other_types_and_copies_are_those_of_the_plain_map() -> None:
    plain, packed = make()
    x = torch.randn(3, 48, generator=tiny.generator(1))
    with torch.no_grad():
        packed(x)
    packed(x).sum().backward()
    assert plain.weight.grad is not None and float(plain.weight.grad.abs().sum()) > 0
    copied = copy.deepcopy(packed)
    stored = io.BytesIO()
    torch.save(packed, stored)
    stored.seek(0)
    with torch.no_grad():
        for other in (copied, torch.load(stored, weights_only=False)):
            assert torch.equal(other(x), packed(x)) and other.weight is not packed.weight
        for dtype in (torch.float64, torch.bfloat16):
            assert torch.equal(copied.to(dtype)(x.to(dtype)), plain.to(dtype)(x.to(dtype)))
            plain.float()


def test_every_map_of_a_model_is_packed_once_and_what_is_tied_stays_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    class Special(nn.Linear):
        """Somebody's own."""

    embedding, last, special = nn.Embedding(5, 4), nn.Linear(4, 5), Special(4, 4)
    last.weight = embedding.weight
    model = nn.ModuleDict({"a": embedding, "b": nn.Sequential(nn.SiLU(), last), "c": special})
    names = list(model.state_dict())
    monkeypatch.setattr(packed_linear, "MAX_BYTES", 10)
    pack(model)
    assert model["b"][1] is last
    monkeypatch.undo()
    pack(model)
    packed = model["b"][1]
    assert isinstance(packed, PackedLinear) and packed.weight is embedding.weight and model["c"] is special
    assert list(model.state_dict()) == names
    pack(model)
    assert model["b"][1] is packed


def test_a_recogniser_in_float32_has_them_and_in_float64_has_not() -> None:
    for dtype in ("float32", "float64"):
        for name in ("default", "an4"):
            model = speechmtp.load(name, dtype=dtype).bundle.model
            kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
            assert kinds == {PackedLinear if dtype == "float32" else nn.Linear}
