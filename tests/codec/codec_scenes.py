"""A tiny codec with random weights, and random spans."""

import numpy as np
import torch

from speechmtp.codec.contract import Spans
from speechmtp.codec.levels import LevelConfig
from speechmtp.codec.network import NetworkConfig
from speechmtp.codec.unit25 import Unit25Codec, Unit25Config

TINY = NetworkConfig(units=20, unit_width=8, heads=2, passes=2, width=8, expansion=2, blocks=3)


def tiny_codec(seed: int = 0, **options: object) -> Unit25Codec:
    """Weights are so large that everything that is computed is heard in the samples."""
    torch.manual_seed(seed)
    codec = Unit25Codec(Unit25Config(network=TINY, levels=LevelConfig(f0=9), **options))
    with torch.no_grad():
        for name, value in codec.named_parameters():
            if name.endswith("gamma"):
                value.fill_(1.0)
        codec.decoder.head.bias.copy_(torch.randn(len(codec.decoder.head.bias)) - 4.0)
    return codec.eval()


def random_spans(seed: int = 0, words: int = 6) -> Spans:
    """Words of one to four units, some of which last no frame."""
    random = np.random.default_rng(seed)
    ids, owners = [0], [0]
    for word in range(words):
        size = int(random.integers(1, 5))
        ids += random.integers(1, 20, size).tolist()
        owners += [word] * size
    ids, owners = [*ids, 0], [*owners, owners[-1]]
    return Spans(np.array(ids), np.array(owners), random.integers(0, 9, len(ids)) + (np.arange(len(ids)) == 0))


def random_tokens(codec: Unit25Codec, spans: Spans, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, codec.size, spans.tokens).tolist()
