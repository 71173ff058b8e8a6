"""tools/from_hibari.py on a graph with random weights: the network that is written computes what the graph would."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from speechmtp.codec.network import sentence_view
from speechmtp.codec.unit25 import Unit25Codec, Unit25Config
from speechmtp.models.storage import unpack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_hibari", ROOT / "tools" / "from_hibari.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def graph() -> dict[str, np.ndarray]:
    """Constants with the names and shapes of hibari.onnx 0.2.1."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def plain(name: str, *shape: int) -> None:
        found[name] = random.normal(size=shape).astype(np.float32)

    def matrix(name: str, inside: int, outside: int) -> None:
        found[f"{name}_output_0_quantized"] = random.integers(-127, 128, (inside, outside)).astype(np.int8)
        found[f"{name}_output_0_scale"] = np.float32(0.01)
        found[f"{name}_output_0_zero_point"] = np.int8(0)

    def block(name: str, matrices: str, width: int, inner: int, kernel: int) -> None:
        for leaf, size in (("gamma", width), ("dw.bias", width), ("norm.weight", width), ("norm.bias", width)):
            plain(f"{name}.{leaf}", size)
        plain(f"{name}.dw.weight", width, 1, kernel)
        plain(f"{name}.pw1.bias", inner)
        plain(f"{name}.pw2.bias", width)
        matrix(f"/{matrices}/pw1/Transpose", width, inner)
        matrix(f"/{matrices}/pw2/Transpose", inner, width)

    plain("m.text.emb.weight", 178, 128)
    for i in range(2):
        block(f"m.text.convs.{i}", f"convs.{i}", 128, 256, 5)
    for i in range(8):
        block(f"m.dec.{i}", f"dec.{i}", 256, 768, 7)
    for name, inside, outside in (("/Transpose_2", 128, 384), ("/out_proj/Transpose", 128, 128)):
        matrix(name, inside, outside)
    matrix("/linear1/Transpose", 128, 256)
    matrix("/linear2/Transpose", 256, 128)
    matrix("/head/Transpose", 256, 3005)
    for name, size in (("self_attn.in_proj_bias", 384), ("self_attn.out_proj.bias", 128), ("linear1.bias", 256)):
        plain(f"m.text.attn.{name}", size)
    plain("m.text.attn.linear2.bias", 128)
    for name in ("m.text.attn.norm1", "m.text.attn.norm2", "m.text.norm", "m.dec_norm"):
        plain(f"{name}.weight", 256 if "dec" in name else 128)
        plain(f"{name}.bias", 256 if "dec" in name else 128)
    plain("m.dec_in.weight", 256, 130, 7)
    plain("m.dec_in.bias", 256)
    plain("m.head.bias", 3005)
    return found


def test_every_tensor_finds_its_place(tool: ModuleType) -> None:
    given = graph()
    state = unpack(tool.convert(given))
    codec = Unit25Codec(Unit25Config())
    codec.load_state_dict(state)  # neither missing nor unexpected ones
    integers = given["/dec.3/pw1/Transpose_output_0_quantized"]
    assert torch.equal(codec.decoder.dec[3].pw1.weight, torch.from_numpy(integers.T * np.float32(0.01)))
    # The first layer as the graph has it: features of frames [C, F] through a convolution of 7.
    frames = torch.randn(1, 9, 130, generator=torch.Generator().manual_seed(0))
    weight, bias = (torch.from_numpy(given[f"m.dec_in.{leaf}"]) for leaf in ("weight", "bias"))
    wanted = torch.nn.functional.conv1d(frames.transpose(1, 2), weight, bias, padding=3)
    padded = torch.nn.functional.pad(frames, (0, 0, 3, 3)).unfold(1, 7, 1).transpose(2, 3).flatten(2)
    assert torch.allclose(codec.decoder.dec_in(padded), wanted.transpose(1, 2), atol=1e-3)
    block, mixed = codec.encoder.convs[0], torch.randn(1, 128, 11)
    taps, taps_bias = (torch.from_numpy(given[f"m.text.convs.0.dw.{leaf}"]) for leaf in ("weight", "bias"))
    wanted = torch.nn.functional.conv1d(mixed, taps, taps_bias, padding=2, groups=128)
    padded = torch.nn.functional.pad(mixed.transpose(1, 2), (0, 0, 2, 2))
    assert torch.allclose(block.mix(padded), wanted.transpose(1, 2), atol=1e-4)
    assert codec.encoder(sentence_view([0, 50, 60, 0])).isfinite().all()


def test_another_version_is_refused(tool: ModuleType) -> None:
    given = graph()
    given["/head/Transpose_output_0_zero_point"] = np.int8(3)
    with pytest.raises(SystemExit, match="expected int8 with 0; another version"):
        tool.convert(given)
