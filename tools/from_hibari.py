"""Turn the decoder of hibari-tts (`hibari.onnx` of its wheel, Apache-2.0) into a codec folder for `train codec --init`.

    python tools/from_hibari.py hibari-0.2.1/hibari/assets/hibari.onnx --notice NOTICE --out hibari

Needs the package onnx. Only the part that makes spectra is taken; durations and prosody are left out.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from speechmtp.codec.folder import CARD, CONFIG, WEIGHTS
from speechmtp.codec.levels import LevelConfig
from speechmtp.codec.unit25 import Unit25Config
from speechmtp.config import write_yaml
from speechmtp.models.storage import SCALE

# Modules whose names differ; ONNX keeps matrices as [in, out] under the names of the operations that read them.
PLAIN = {
    "text.attn.self_attn.in_proj": ("encoder.qkv", "/Transpose_2"),
    "text.attn.self_attn.out_proj": ("encoder.out", "/out_proj/Transpose"),
    "text.attn.linear1": ("encoder.linear1", "/linear1/Transpose"),
    "text.attn.linear2": ("encoder.linear2", "/linear2/Transpose"),
    "head": ("decoder.head", "/head/Transpose"),
}
NORMS = {
    "text.attn.norm1": "encoder.norm1",
    "text.attn.norm2": "encoder.norm2",
    "text.norm": "encoder.norm",
    "dec_norm": "decoder.dec_norm",
}
# The decoder was trained on Kokoro's own curves of energy, which are lower where speech is loud than what is measured
# in its audio: their means where each level was measured, in 64 utterances of tts/kokoro/dev.
ENERGY_READ = (-9.23, -6.71, -3.81, -0.97, 1.2, 3.05, 4.45, 5.45, 6.3, 7.0, 7.6, 8.05)


def read_graph(path: Path) -> dict[str, np.ndarray]:
    """The constants of an ONNX file by name."""
    import onnx
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in onnx.load(str(path)).graph.initializer}


def convert(graph: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors of a codec folder: the integers and scales of the graph's matrices as they are, all else float32."""
    state: dict[str, Tensor] = {"encoder.emb.weight": _float(graph["m.text.emb.weight"])}
    for theirs, (ours, matrix) in PLAIN.items():
        state |= _matrix(graph, matrix, f"{ours}.weight")
        bias = f"m.{theirs}_bias" if theirs.endswith("in_proj") else f"m.{theirs}.bias"
        state[f"{ours}.bias"] = _float(graph[bias])
    for theirs, ours in NORMS.items():
        state |= {f"{ours}.{leaf}": _float(graph[f"m.{theirs}.{leaf}"]) for leaf in ("weight", "bias")}
    blocks = sorted({name.rsplit(".", 1)[0] for name in graph if name.startswith("m.") and name.endswith(".gamma")})
    for block in blocks:
        theirs = block.removeprefix("m.")
        ours = theirs.replace("text.convs", "encoder.convs") if "text" in theirs else f"decoder.{theirs}"
        state |= _block(graph, block, theirs.removeprefix("text."), ours)
    taps = _float(graph["m.dec_in.weight"])  # [out, in, 7]
    state["decoder.dec_in.weight"] = taps.transpose(1, 2).flatten(1)
    state["decoder.dec_in.bias"] = _float(graph["m.dec_in.bias"])
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _block(graph: Mapping[str, np.ndarray], theirs: str, matrices: str, ours: str) -> dict[str, Tensor]:
    """The tensors of one ConvNeXt block."""
    state = {
        f"{ours}.taps": _float(graph[f"{theirs}.dw.weight"])[:, 0].T,
        f"{ours}.taps_bias": _float(graph[f"{theirs}.dw.bias"]),
        f"{ours}.gamma": _float(graph[f"{theirs}.gamma"]),
    }
    for name in ("norm.weight", "norm.bias", "pw1.bias", "pw2.bias"):
        state[f"{ours}.{name}"] = _float(graph[f"{theirs}.{name}"])
    for name in ("pw1", "pw2"):
        state |= _matrix(graph, f"/{matrices}/{name}/Transpose", f"{ours}.{name}.weight")
    return state


def _matrix(graph: Mapping[str, np.ndarray], theirs: str, ours: str) -> dict[str, Tensor]:
    integers, scale, zero = (graph[f"{theirs}_output_0_{leaf}"] for leaf in ("quantized", "scale", "zero_point"))
    if zero.any() or integers.dtype != np.int8:
        raise SystemExit(f"{theirs}: {integers.dtype} with zero point {zero}, expected int8 with 0; another version?")
    rows = torch.from_numpy(integers.T.copy())
    return {ours: rows, ours + SCALE: torch.full((len(rows),), float(scale))}


def _float(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value, np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path, help="hibari.onnx")
    parser.add_argument("--notice", type=Path, required=True, help="the package's NOTICE, which goes with the weights")
    parser.add_argument("--out", type=Path, required=True, help="the codec folder that is written")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(convert(read_graph(args.onnx)), args.out / WEIGHTS)
    write_yaml(args.out / CONFIG, Unit25Config(levels=LevelConfig(energy_read=ENERGY_READ)))
    shutil.copy(args.notice, args.out / "NOTICE")
    (args.out / CARD).write_text("# Codec\n\nThe decoder of hibari-tts (Apache-2.0, see NOTICE), converted.\n")
    print(args.out)


if __name__ == "__main__":
    main()
