"""Untrained heads say what the base head says, whatever the trunk's norms and output layer are."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiny
import torch
import transformers
from families import CONFIGS, kind_of
from torch import Tensor

from speechmtp.heads.contract import TrainBatch
from speechmtp.heads.table import build_heads
from speechmtp.models.trunk import Trunk

SIZES = {
    "vocab_size": tiny.VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "ffn_dim": 24, "word_embed_proj_dim": 16,
    "max_position_embeddings": 40, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def causal(kind: str, **options: Any) -> Callable[[], Trunk]:
    """How to make a small trunk of one of transformers' classes, of random weights."""

    def make() -> Trunk:
        config = getattr(transformers, f"{kind}Config")(**SIZES, **options)
        with torch.random.fork_rng():
            built = Trunk(getattr(transformers, f"{kind}ForCausalLM")(config))
        tiny.randomise(built, 1)
        return built

    return make


# RMS and layer norms, weights that stand for w and for 1 + w, with and without a bias, without weights at all; an
# output layer with a bias (Phi).
TRUNKS: dict[str, Callable[[], Trunk]] = {
    "Llama": causal("Llama"),
    "Gemma": causal("Gemma"),
    "Helium": causal("Helium"),
    "OPT": causal("OPT"),
    "StableLm": causal("StableLm"),
    "Starcoder2": causal("Starcoder2", sliding_window=None),
    "Nemotron": causal("Nemotron"),
    "Olmo": causal("Olmo"),
    "Phi": causal("Phi"),
    "Moonshine": lambda: tiny.tiny_moonshine(1, gain=1.0).trunk,
    "Whisper": lambda: tiny.tiny_whisper(1, gain=1.0).trunk,
}
# With and without layers, taps, a shortlist and output layers of their own.
FAMILIES = (
    "latent", "linear", "linear-taps", "residual-own", "layer", "chain-own-roll", "chain-shared-roll-weighted",
    "chain-shared-ttt", "hydra-own", "vocalnet", "vocalnet-shared", "joint",
)  # fmt: skip


@cache
def read(kind: str) -> tuple[Trunk, Tensor, Tensor, Tensor, Tensor | None]:
    """A trunk whose norms are far from 1; embeddings of random ids in two rows, ids, positions, encoder outputs."""
    trunk = TRUNKS[kind]()
    rng = tiny.generator(7)
    with torch.no_grad():
        for name, weight in sorted(trunk.named_parameters()):
            if weight.dim() == 1 and "norm" in name:
                weight.add_(0.5 * torch.randn(weight.shape, generator=rng, dtype=torch.float64))
            if name.endswith("lm_head.bias"):
                weight.add_(torch.randn(weight.shape, generator=rng, dtype=torch.float64))
    ids = torch.randint(0, tiny.VOCAB, (2, 8), generator=rng)
    seq2seq = kind in ("Moonshine", "Whisper")
    memory = torch.randn(2, 50, trunk.width, generator=rng, dtype=torch.float64) if seq2seq else None
    return trunk, trunk.embed(ids).detach(), ids, torch.arange(8).repeat(2, 1), memory


@pytest.mark.parametrize("kind", TRUNKS)
def test_heads_start_as_the_base_head(kind: str) -> None:
    """Every family but `block`; `joint` up to the noise between its components."""
    for name in FAMILIES:
        assert off(kind, name) < (2e-2 if kind_of(name) == "joint" else 1e-3), name


@torch.no_grad()
def off(kind: str, name: str) -> float:
    """The largest difference of log probabilities, at every index where the tokens to read are known."""
    trunk, inputs, ids, positions, memory = read(kind)
    with torch.random.fork_rng():
        heads = build_heads(CONFIGS[name], trunk.shape).double().eval()
    heads.start_from(trunk)
    segments = torch.zeros_like(ids)
    states = trunk(inputs, positions, segments, heads.taps, memory)
    batch = TrainBatch(
        states, inputs, ids, positions, segments, trunk.embed, heads.narrow(trunk), memory,
        None if memory is None else torch.tensor([50, 50]),
    )  # fmt: skip
    base = trunk.unembed(states.hidden)
    if heads.shortlist is not None:
        base = base[..., heads.shortlist]
    found = 0.0
    for d, features in enumerate(heads.train_depths(batch), 1):
        logits = heads.logits(features, d, batch.unembed)
        difference = logits[:, : 9 - d].log_softmax(-1) - base[:, : 9 - d].log_softmax(-1)
        found = max(found, float(difference.abs().max()))
    return found
