"""Make the weights of `speechmtp/audio/activity.py` from the TorchScript file of the package silero-vad.

    python tools/make_activity.py SITE_PACKAGES/silero_vad/data/silero_vad.jit OUT.safetensors

Only the network for 16 kHz is kept, without its Fourier basis (a periodic Hann window and a real FFT say the same) and
without the taps that see nothing but padding: the third convolution has two frames, the fourth one.
"""

import sys

import torch
from safetensors.torch import save_file


def weights_of(path: str) -> dict[str, torch.Tensor]:
    """Tensors by their names in `ActivityModel`."""
    source = torch.jit.load(path, map_location="cpu").state_dict()
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


if __name__ == "__main__":
    save_file(weights_of(sys.argv[1]), sys.argv[2])
