"""Real models of a few thousand random weights in float64, and random inputs for them; all seeded."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from speechmtp.heads.table import FAMILIES, HeadsConfig, build_heads
from speechmtp.models.adapter import AdapterConfig, CtcMergeConfig
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.bases.moonshine import Moonshine, MoonshineSettings
from speechmtp.models.bases.whisper import Whisper, WhisperSettings
from speechmtp.models.encoder import Encoder, EncoderConfig
from speechmtp.models.encoder_lm import EncoderLM, ModelConfig
from speechmtp.models.shape import TrunkShape
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.types import Prompt, TokenRules

torch.set_num_threads(1)

VOCAB = 11
BOS = 1
EOS = 2
RULES = TokenRules((EOS,))
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


def speech_lm(seed: int = 0, adapter: AdapterConfig | None = None, family: str = "llama") -> EncoderLM:
    """Encoder, adapter and trunk."""
    config = ModelConfig(
        EncoderConfig(**_ENCODER),
        adapter or CtcMergeConfig(),
        ScratchTrunkConfig(family=family, width=WIDTH, layers=2, heads=2, ff_width=2 * WIDTH),
    )
    with torch.random.fork_rng():
        built = EncoderLM(config, VOCAB, BOS)
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
    """Random audio entries at positions 0, 1, ... and the start token at position 0 behind them; ragged rows.

    A length counts all entries of a row, the start token included. Padding is rubbish on purpose.
    """
    rng = generator(seed)
    size = max(lengths)
    embeddings = torch.randn(len(lengths), size, model.width, generator=rng, dtype=torch.float64)
    positions = torch.arange(size).repeat(len(lengths), 1)
    start_tokens = model.embed(torch.tensor(BOS)).detach()
    for row, length in enumerate(lengths):
        embeddings[row, length - 1] = start_tokens
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


def tiny_moonshine(seed: int = 0, vocab: int = VOCAB, gain: float = 3.0) -> EncoderDecoder:
    """A Moonshine of 2 decoder layers; bos 1, end token 2; a memory entry every 384 samples."""
    config = MoonshineConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=24, encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=2, encoder_num_attention_heads=2, decoder_num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, pad_token_id=EOS,
    )  # fmt: skip
    generation = GenerationConfig(bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS)
    with torch.random.fork_rng():
        built = Moonshine(MoonshineSettings(), MoonshineForConditionalGeneration(config), None, generation)
    randomise(built, seed, gain)
    return built


def tiny_whisper(seed: int = 0, vocab: int = VOCAB + 4, gain: float = 3.0) -> EncoderDecoder:
    """A Whisper of 2 decoder layers that hears one second; start token 1, end token 2, the last three ids for no
    timestamps and two timestamps; ids 1 and 5 are never said, 2 and 4 never first; 40 positions."""
    config = WhisperConfig(
        vocab_size=vocab, d_model=WIDTH, num_mel_bins=8, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=50,
        max_target_positions=40, bos_token_id=EOS, eos_token_id=EOS, decoder_start_token_id=BOS, pad_token_id=EOS,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    generation = GenerationConfig(
        bos_token_id=EOS, eos_token_id=EOS, decoder_start_token_id=BOS,
        suppress_tokens=[BOS, 5, *range(vocab - 3, vocab)], begin_suppress_tokens=[EOS, 4],
        no_timestamps_token_id=vocab - 3, is_multilingual=False,
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    with torch.random.fork_rng():
        built = Whisper(WhisperSettings(), WhisperForConditionalGeneration(config), extractor, generation)
    randomise(built, seed, gain)
    return built


def memory_prompts(model: EncoderDecoder, lengths: list[int], seed: int = 0) -> Prompt:
    """The start tokens before random encoder outputs of these lengths (Whisper: all alike), rubbish past them."""
    memory = torch.randn(len(lengths), max(lengths), model.trunk.width, generator=generator(seed), dtype=torch.float64)
    return model.prompt(2 * memory, torch.tensor(lengths))


_SPELT = " etaoinshrdlcumwfgypbvkxjqz'"  # the space is a mark in front of words


def write_seq2seq(folder: Path, family: str = "moonshine", seed: int = 0) -> Path:
    """A folder as transformers has it, of a tiny model that speaks letters, 32 tokens or a few more, in float32."""
    pieces = ["<unk>", "<s>", "</s>", *_SPELT.replace(" ", "\N{LOWER ONE EIGHTH BLOCK}")]
    size = len(pieces) + 4  # four pairs of letters
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n")]
    pieces += ["".join(pair) for pair in merges]
    model = tiny_moonshine(seed, size) if family == "moonshine" else tiny_whisper(seed, size + 3)
    folder.mkdir(parents=True, exist_ok=True)
    model.trunk.model.float().save_pretrained(folder)
    model.save_settings(folder)
    built = tokenizers.Tokenizer(
        tokenizers.models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>")
    )
    mark = "\N{LOWER ONE EIGHTH BLOCK}"
    built.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend(mark), tokenizers.normalizers.Replace(" ", mark)]
    )
    built.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.Replace(mark, " "), tokenizers.decoders.Fuse(), tokenizers.decoders.Strip(" ", 1, 0)]
    )
    built.add_special_tokens(pieces[:3])
    built.save(str(folder / "tokenizer.json"))
    return folder


def write_brief(folder: Path) -> Path:
    """A tiny Moonshine that says at most a token a second and two more."""
    path = write_seq2seq(folder)
    (path / "config.yaml").write_text("format_version: 1\nmodel: {kind: moonshine, tokens_per_second: 1.0, extra: 2}\n")
    return path
