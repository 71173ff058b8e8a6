"""Make the weights of `speechmtp/audio/activity.py` from the package silero-vad, and what the package says of some
recordings, which the tests compare.

    python tools/make_activity.py SITE_PACKAGES/silero_vad/data/silero_vad.jit

writes speechmtp/assets/activity/model.safetensors and tests/golden/activity.json. Only the network for 16 kHz is kept,
without its Fourier basis (a periodic Hann window and a real FFT say the same) and without the taps that see nothing but
padding: the third convolution has two frames, the fourth one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import speechmtp
from speechmtp.audio.activity import FRAME, RATE, WEIGHTS
from speechmtp.audio.io import read_audio

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "activity.json"


def weights_of(network: torch.jit.ScriptModule) -> dict[str, torch.Tensor]:
    """Tensors by their names in `ActivityModel`."""
    source = network.state_dict()
    found = {}
    for number in range(4):
        for kind in ("weight", "bias"):
            found[f"conv{number + 1}.{kind}"] = source[f"_model.encoder.{number}.reparam_conv.{kind}"]
    found["conv3.weight"] = found["conv3.weight"][:, :, 1:]
    found["conv4.weight"] = found["conv4.weight"][:, :, 1:2]
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        found[f"lstm.{kind}_l0"] = source[f"_model.decoder.rnn.{kind}"]
    found["output.weight"] = source["_model.decoder.decoder.2.weight"][:, :, 0]
    found["output.bias"] = source["_model.decoder.decoder.2.bias"]
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in found.items()}


def recordings() -> dict[str, np.ndarray]:
    """Real speech, and white noise."""
    noise = 0.1 * np.random.default_rng(0).normal(size=2 * RATE)
    return {"reading": read_audio(str(speechmtp.example("reading")), RATE)[0], "noise": noise.astype(np.float32)}


def said(network: torch.jit.ScriptModule, samples: np.ndarray) -> list[float]:
    """Probabilities of the whole frames of a recording."""
    network.reset_states()
    frames = torch.from_numpy(samples[: len(samples) // FRAME * FRAME]).view(-1, FRAME)
    with torch.no_grad():
        return [round(float(network(frame, RATE)), 7) for frame in frames]


if __name__ == "__main__":
    package = torch.jit.load(sys.argv[1], map_location="cpu")
    save_file(weights_of(package), WEIGHTS)
    golden = {name: said(package, samples) for name, samples in recordings().items()}
    GOLDEN.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
