"""Stored weights: unsigned 8-bit integers with one scale and zero point a tensor are found again bit for bit."""

import copy
import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from speechmtp.models.affine import dequantise, recover_affine
from speechmtp.models.storage import (
    SCALE,
    ZERO,
    file_digest,
    load_state,
    pack,
    read_weights,
    unpack,
    weights_digest,
    without_random_weights,
)


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


def test_a_table_of_256_values_is_the_formula() -> None:
    """Bit for bit, for scales from the smallest float16 on and every zero point's end."""
    integers = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    for scale in (2.0**-24, 1e-5, 0.003, 0.7, 300.0):
        for zero in (0, 7, 255):
            expected = ((integers.float() - zero) * torch.tensor(scale)).half().float()
            found = dequantise(integers, torch.tensor(scale), torch.tensor(zero, dtype=torch.uint8))
            assert found.dtype == torch.float32 and torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_modules_without_random_weights_leave_the_generator_alone() -> None:
    """Constants are set as ever, nothing random is drawn, and behind the context it is drawn again."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with without_random_weights():
        module = nn.Sequential(nn.Linear(8, 8), nn.Embedding(9, 8), nn.LayerNorm(8), nn.Conv1d(8, 8, 3))
        nn.init.trunc_normal_(module[0].weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(module[2].weight, torch.ones(8)) and torch.equal(module[2].bias, torch.zeros(8))
    other = nn.Sequential(nn.Linear(8, 8), nn.Embedding(9, 8), nn.LayerNorm(8), nn.Conv1d(8, 8, 3))
    assert not torch.equal(torch.get_rng_state(), before)
    module.load_state_dict(other.state_dict())
    assert torch.equal(module[0](torch.ones(8)), other[0](torch.ones(8)))


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    """SHA-256 of the whole; no file has none."""
    (tmp_path / "a").write_bytes(b"abc" * 99999)
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc" * 99999).hexdigest()
    assert file_digest(tmp_path / "b") == ""


def test_weights_of_a_file_are_taken_over_without_a_copy(tmp_path: Path) -> None:
    """Tied ones stay one, buffers and modes are kept, and a file that changes afterwards changes nothing."""
    given = nn.Sequential(nn.Linear(40, 40), nn.BatchNorm1d(40), nn.Linear(40, 40, bias=False))
    given[2].weight = given[0].weight
    given[1].running_mean += 3.0  # type: ignore[operator]
    file = tmp_path / "model.safetensors"
    for storage in ("float32", "int8"):
        save_file(pack(given.state_dict(), storage), file)
        state = unpack(read_weights(file))
        module = copy.deepcopy(given).requires_grad_(False)
        for parameter in module.parameters():
            parameter.zero_()
        before = module[0].weight
        load_state(module, state, file, adopt=True)
        assert module[0].weight is before is module[2].weight and not before.requires_grad
        assert before.data_ptr() == state["0.weight"].data_ptr()
        assert torch.equal(module[1].running_mean, given[1].running_mean)
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.seek(size // 2)
            opened.write(bytes(size - size // 2))
        torch.testing.assert_close(before, given[0].weight.detach(), rtol=0, atol=0 if storage == "float32" else 2e-3)
