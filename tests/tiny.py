"""Real models of a few thousand random weights in float64, and random inputs for them; all seeded."""

from typing import Any

import torch
from torch import Tensor

from speechmtp.heads.table import FAMILIES, HeadsConfig, build_heads
from speechmtp.models.adapter import AdapterConfig, CtcMergeConfig
from speechmtp.models.encoder import Encoder, EncoderConfig
from speechmtp.models.speech_lm import ModelConfig, SpeechLM
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.types import Prompt, TrunkShape

torch.set_num_threads(1)

VOCAB = 11
BOS = 1
EOS = 2
WIDTH = 16
FEATURES = 16
TRUNKS = ("llama", "qwen3")
SHAPE = TrunkShape(WIDTH, VOCAB, 2, 2, 2, WIDTH // 2, 2 * WIDTH)  # of `trunk`


def generator(seed: int) -> torch.Generator:
    """A torch generator."""
    return torch.Generator().manual_seed(seed)


def randomise(module: torch.nn.Module, seed: int, gain: float = 1.0) -> None:
    """Give every weight a random value large enough for outputs to depend on all inputs; float64, eval mode.

    Freshly started models are too tame for tests: biases are zero, and a small tied embedding repeats its
    last token for ever.
    """
    module.double().eval()
    rng = generator(seed)
    with torch.no_grad():
        for name, weight in sorted(module.named_parameters()):
            noise = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
            if weight.dim() < 2:
                weight.copy_(0.1 * noise + (1 if "norm" in name and name.endswith("weight") else 0))
            else:
                fan_in = weight[:1].numel() or 1
                weight.copy_(noise * gain / fan_in**0.5)


def trunk(seed: int = 0, family: str = "llama", width: int = WIDTH, layers: int = 2, gain: float = 3.0) -> Trunk:
    """A causal LM of 2 layers over VOCAB tokens."""
    config = ScratchTrunkConfig(family=family, width=width, layers=layers, heads=2, ff_width=2 * width)
    with torch.random.fork_rng():
        built = build_trunk(config, VOCAB)
    randomise(built, seed, gain)
    return built


def encoder(seed: int = 0, **settings: Any) -> Encoder:
    """A Conformer of 2 layers on FEATURES bins, with intermediate CTC behind the first."""
    with torch.random.fork_rng():
        built = Encoder(EncoderConfig(**(_ENCODER | settings)), VOCAB)
    randomise(built, seed)
    built.mean.copy_(torch.randn(FEATURES, generator=generator(seed)))
    return built


_ENCODER: dict[str, Any] = {
    "features": FEATURES, "width": 16, "layers": 2, "heads": 2, "ff_width": 24, "kernel": 4, "channels": 4,
    "inter_ctc": (1,),
}  # fmt: skip


def speech_lm(seed: int = 0, adapter: AdapterConfig | None = None, family: str = "llama") -> SpeechLM:
    """Encoder, adapter and trunk."""
    config = ModelConfig(
        EncoderConfig(**_ENCODER),
        adapter or CtcMergeConfig(),
        ScratchTrunkConfig(family=family, width=WIDTH, layers=2, heads=2, ff_width=2 * WIDTH),
    )
    with torch.random.fork_rng():
        built = SpeechLM(config, VOCAB, BOS)
    randomise(built, seed)
    return built


def heads(kind: str = "latent", depth: int = 3, seed: int = 0, shape: TrunkShape = SHAPE, **options: Any) -> Any:
    """A head set of any family with random weights."""
    config: Any = next(family for family in FAMILIES if family.kind == kind)  # type: ignore[attr-defined]
    return random_heads(config(depth=depth, **options), seed, shape)


def random_heads(config: HeadsConfig, seed: int = 0, shape: TrunkShape = SHAPE) -> Any:
    """A head set with random weights, so large that every depth reads all it can."""
    with torch.random.fork_rng():
        built = build_heads(config, shape)
    randomise(built, seed)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.dim() > 2:  # a matrix or more a depth
                noise = torch.randn(weight.shape, generator=generator(seed), dtype=torch.float64)
                weight.copy_(noise / weight.shape[-1] ** 0.5)
        if config.taps and config.mix == "weighted":
            built.reads.weight.mul_(10)
    return built


def prompts(model: Trunk, lengths: list[int], seed: int = 0) -> Prompt:
    """Random audio entries at positions 0, 1, ... and the opening token at position 0 behind them; ragged rows.

    A length counts all entries of a row, the opening token included. Padding is rubbish on purpose.
    """
    rng = generator(seed)
    size = max(lengths)
    embeddings = torch.randn(len(lengths), size, model.width, generator=rng, dtype=torch.float64)
    positions = torch.arange(size).repeat(len(lengths), 1)
    opening = model.embed(torch.tensor(BOS)).detach()
    for row, length in enumerate(lengths):
        embeddings[row, length - 1] = opening
        positions[row, length - 1] = 0
    return Prompt(embeddings, positions, torch.tensor(lengths), torch.ones(len(lengths), dtype=torch.long))


def frames(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random features [B, T, FEATURES], rubbish past the lengths, and the lengths [B]."""
    values = torch.randn(len(lengths), max(lengths), FEATURES, generator=generator(seed), dtype=torch.float64)
    return 2 * values, torch.tensor(lengths)


def sentences(rng: torch.Generator, rows: int, most: int) -> list[list[int]]:
    """Random token lists of 0 to `most` tokens without an end token."""
    allowed = torch.tensor([token for token in range(VOCAB) if token != EOS])
    sizes = torch.randint(0, most + 1, (rows,), generator=rng).tolist()
    return [allowed[torch.randint(0, len(allowed), (size,), generator=rng)].tolist() for size in sizes]


def random_tree(rng: torch.Generator, rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Tokens and parents [rows, size] of random trees; each row has 0 to `size` nodes, -1 behind them."""
    tokens = torch.randint(0, VOCAB, (rows, size), generator=rng)
    parent = torch.full((rows, size), -1)
    for node in range(1, size):
        parent[:, node] = torch.randint(-1, node, (rows,), generator=rng)
    absent = torch.arange(size) >= torch.randint(0, size + 1, (rows, 1), generator=rng)
    return tokens.masked_fill(absent, -1), parent.masked_fill(absent, -1)


def path_to(parent: list[int], node: int) -> list[int]:
    """Indices from the root to `node`."""
    path: list[int] = []
    while node >= 0:
        path.insert(0, node)
        node = parent[node]
    return path
