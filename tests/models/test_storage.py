"""Stored weights: unsigned 8-bit integers with one scale and zero point a tensor are found again bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from speechmtp.models.affine import dequantise, recover_affine
from speechmtp.models.storage import SCALE, ZERO, load_state, pack, unpack, weights_digest


def published(
    scale: float, zero: int, seed: int = 0, spread: float = 40.0, shape: tuple[int, ...] = (48, 64)
) -> Tensor:
    """A matrix of 8-bit integers around their zero point, dequantised and rounded to float16."""
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread + zero
    integers = draw.round().clamp(0, 255).byte().float()
    return ((integers - zero) * torch.tensor(scale)).half()


def assert_recovered(half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found = recover_affine(half)
    assert found is not None
    integers, scale, zero = found
    assert integers.dtype == zero.dtype == torch.uint8 and scale.dtype == torch.float32
    assert integers.shape == half.shape and scale.shape == zero.shape == ()
    again = dequantise(*found)
    assert again.dtype == torch.float32 and torch.equal(again.half().view(torch.int16), half.view(torch.int16))
    assert all(torch.equal(a, b) for a, b in zip(recover_affine(half.float()) or (), found, strict=True))
    return found


@pytest.mark.parametrize("scale", [1e-7, 3.1e-6, 1.2345e-4, 0.0043, 0.011728, 0.999, 37.3, 250.0])
@pytest.mark.parametrize("zero", [0, 1, 117, 128, 254, 255])
def test_affine_weights_are_found_again(scale: float, zero: int) -> None:
    _, found, _ = assert_recovered(published(scale, zero))
    if scale > 1e-4 and zero in (117, 128):  # the scale itself, as far as float16 tells it
        assert abs(found.item() / scale - 1) < 2e-3


def test_many_random_scales_are_found_again() -> None:
    draw = torch.Generator().manual_seed(1)
    for seed in range(150):
        scale = float(10 ** (torch.rand((), generator=draw) * 8 - 6))
        zero = int(torch.randint(0, 256, (), generator=draw))
        spread = float(10 ** (torch.rand((), generator=draw) * 2))
        assert_recovered(published(scale, zero, seed, spread, (40, 30)))


@pytest.mark.parametrize("scale", [0.5, 2.0**-9, 0xFFF / 2**20, 0x801 / 2**20, 0xAAB / 2**18])
def test_scales_whose_products_are_ties(scale: float) -> None:
    """Scales of twelve bits: integer * scale lies halfway between two values of float16."""
    assert_recovered(published(scale, 128, spread=80.0))


def test_scales_that_fit_by_the_rounding_of_float32() -> None:
    """An integer times such a scale lies halfway in float32, though not exactly; all 256 levels leave few scales."""
    draw, rounded = torch.Generator().manual_seed(2), 0
    for _ in range(50):
        tie = float(2 * torch.randint(1024, 2048, (), generator=draw) + 1) / 2**12
        integer = int(torch.randint(3, 120, (), generator=draw))
        scale = torch.tensor(tie / integer)
        rounded += int(scale * integer == tie and scale.double() * integer != tie)
        assert_recovered(((torch.arange(256.0) - 131) * scale).half())
    assert rounded > 10


def test_few_levels() -> None:
    for level in (0.0, 0.0371, -0.0371, 6e-8, 65504.0):
        assert_recovered(torch.full((8, 8), level).half())
    assert_recovered(torch.tensor([[0.0, 0.25], [-0.25, 0.25]]).half())
    assert_recovered((torch.tensor([[3.0, 7.0], [250.0, 255.0]]) * 0.0123).half())  # none is nought
    integers, _, zero = assert_recovered((torch.arange(256.0) - 91).mul(0.00731).half().reshape(16, 16))
    assert torch.equal(integers.flatten(), torch.arange(256).byte()) and zero == 91


def test_what_was_not_quantised_so_is_none() -> None:
    draw = torch.Generator().manual_seed(0)
    assert recover_affine(torch.randn(64, 64, generator=draw).half()) is None
    assert recover_affine(published(0.01, 128).float() * 1.0001) is None  # no values of float16
    levels = torch.randn(200, generator=draw).half()  # few enough, but not on one step
    assert recover_affine(levels[torch.randint(200, (64, 64), generator=draw)]) is None
    one_off = published(0.01, 128)
    one_off[3, 5] = 0.015
    assert recover_affine(one_off) is None
    wide = torch.arange(-200.0, 200.0, 2).mul(0.01).half()
    assert recover_affine(wide) is not None and recover_affine(torch.cat([wide, wide + 0.01])) is None  # 400 levels
    ends = torch.tensor([-0.5, -0.01, 0.01, 1.0, 2.0, 2.06])  # steps of 0.01 would need 257 of them
    assert recover_affine(ends.half()) is None
    for wrong in (float("inf"), float("nan"), -0.0):
        broken = published(0.01, 128)
        broken[0, 0] = wrong
        assert recover_affine(broken) is None
    assert recover_affine(torch.zeros(0, 4)) is None


class Tied(nn.Module):
    """An embedding tied to the output, a matrix of its own kind, a convolution, a bias and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(48, 64), nn.Linear(64, 48)
        self.free, self.convolution = nn.Linear(64, 48, bias=False), nn.Conv1d(48, 64, 3)
        self.output.weight = self.embedding.weight
        self.register_buffer("count", torch.tensor(70000))
        with torch.no_grad():
            self.embedding.weight.copy_(published(0.0117, 130))
            self.convolution.weight.copy_(published(0.02, 99, 1, shape=(64, 48, 3)))
            for parameter in self.parameters():
                parameter.copy_(parameter.half())


def test_uint8_storage_keeps_every_bit(tmp_path: Path) -> None:
    module, other = Tied(), Tied()
    packed = pack(module.state_dict(), "uint8")
    kept = {name for name in packed if packed[name].dtype == torch.uint8}
    assert kept == {n + end for n in ("embedding.weight", "convolution.weight") for end in ("", ZERO)}
    assert "output.weight" not in packed and packed["embedding.weight" + SCALE].dtype == torch.float32
    assert packed["free.weight"].dtype == packed["output.bias"].dtype == torch.float16
    assert packed["count"].dtype == torch.int64
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    load_state(other, unpack(packed), tmp_path)
    for name, tensor in module.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    assert other.output.weight is other.embedding.weight
    assert weights_digest(module, "uint8") == weights_digest(module) == weights_digest(other)


def test_uint8_storage_rounds_other_weights_to_float16() -> None:
    value = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(pack({"a": value}, "uint8"))["a"], value.half().float())
