"""A pretrained encoder-decoder recogniser of transformers (Moonshine, Whisper): audio in, its trunk's memory out."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoFeatureExtractor,
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.types import Prompt


@dataclass(frozen=True)
class Seq2SeqConfig:
    """Which model it is and the law of its output: greedy decoding of at most ceil(`tokens_per_second` * seconds) +
    `extra` tokens, but never past the decoder's positions. Everything else stands in transformers' own files."""

    kind: Literal["seq2seq"] = "seq2seq"
    family: Literal["moonshine", "whisper"] = "moonshine"
    tokens_per_second: float = 6.5
    extra: int = 2


@dataclass(frozen=True)
class Law:
    """`prompt` ids that open every output, ids that are never said or never first, and the end token."""

    prompt: tuple[int, ...]
    eos: int
    suppressed: tuple[int, ...] = ()
    opening_suppressed: tuple[int, ...] = ()


def _moonshine_law(config: Any, generation: GenerationConfig) -> Law:
    return Law((int(config.decoder_start_token_id),), int(config.eos_token_id))


def _whisper_law(config: Any, generation: GenerationConfig) -> Law:
    """English without timestamps: what the model's settings suppress, timestamps and the id before them are never said,
    the end token always may be."""
    g: Any = generation
    eos, start = int(config.eos_token_id), int(config.decoder_start_token_id)
    plain = int(g.no_timestamps_token_id)
    prompt = [start]
    if getattr(g, "is_multilingual", config.vocab_size >= 51865):
        prompt += [int(g.lang_to_id["<|en|>"]), int(g.task_to_id["transcribe"])]
    never = {*map(int, g.suppress_tokens or ()), plain, *range(plain + 1, int(config.vocab_size))} - {eos}
    first = set(map(int, g.begin_suppress_tokens or ())) - never
    return Law((*prompt, plain), eos, tuple(sorted(never)), tuple(sorted(first)))


@dataclass(frozen=True)
class Family:
    """What differs between families: classes, law, and the least number of samples that the encoder takes."""

    config: Any
    model: Any
    law: Callable[[Any, GenerationConfig], Law]
    shortest: int


FAMILIES: Mapping[str, Family] = {
    "moonshine": Family(MoonshineConfig, MoonshineForConditionalGeneration, _moonshine_law, 895),
    "whisper": Family(WhisperConfig, WhisperForConditionalGeneration, _whisper_law, 1),
}
RATE = 16000
LONGEST = 30.0  # seconds of a window that either family was trained on


class SpeechSeq2Seq(nn.Module):
    """The whole model: `memory` runs its encoder, `trunk` is its decoder."""

    def __init__(
        self, config: Seq2SeqConfig, model: PreTrainedModel, extractor: Any, generation: GenerationConfig
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.extractor, self.generation = config, extractor, generation
        self.family = FAMILIES[config.family]
        self.law = self.family.law(model.config, generation)
        self.trunk = Seq2SeqTrunk(model, self.law.suppressed, self.law.opening_suppressed)
        self.rate, self.longest = RATE, LONGEST

    @property
    def shortest(self) -> int:
        """The least number of samples that the encoder takes."""
        return self.family.shortest

    def features(self, audio: Tensor) -> Tensor:
        """What the encoder reads of samples [N]: [1, N] samples, or [1, mels, 3000] frames of 30 s padded with
        silence."""
        like = self.trunk.unembedding().weight
        if self.config.family == "moonshine":
            return audio[None].to(like)
        found = self.extractor(audio.float().cpu().numpy(), sampling_rate=RATE, return_tensors="pt")
        features: Tensor = found["input_features"]
        return features.to(like)

    def memory(self, audio: Tensor) -> Tensor:
        """Encoder states [1, S, E] of samples [N]: one recording, unpadded. Moonshine's group norm runs over all time
        and neither it nor a convolution knows of padding, so that a padded row would be heard otherwise."""
        return self.encode(self.features(audio))

    def encode(self, features: Tensor) -> Tensor:
        """Encoder states [B, S, E] of features of rows of one length."""
        encoder: Any = self.trunk.model.get_encoder()
        states: Tensor = encoder(features).last_hidden_state
        return states

    def prompt(self, memory: Tensor, lengths: Tensor | None = None) -> Prompt:
        """The opening tokens before memory [B, S, E]."""
        rows, device = len(memory), memory.device
        ids = torch.tensor(self.law.prompt, device=device).expand(rows, -1)
        size = torch.full((rows,), ids.shape[1], device=device)
        lengths = torch.full((rows,), memory.shape[1], device=device) if lengths is None else lengths
        positions = torch.arange(ids.shape[1], device=device).expand(rows, -1)
        return Prompt(self.trunk.embed(ids).to(memory.dtype), positions, size, size, memory, lengths)

    def save_settings(self, folder: Path) -> None:
        """transformers' configuration files."""
        config: Any = self.trunk.model.config
        config.save_pretrained(folder)
        self.generation.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)

    def limit(self, seconds: float) -> int:
        """The most tokens, an end token among them, that are said of so many seconds."""
        most = ceil(self.config.tokens_per_second * seconds) + self.config.extra
        last = self.trunk.last_position
        last = int(getattr(self.trunk.model.config, "max_position_embeddings", 512)) - 1 if last is None else last
        return max(1, min(most, last + 1 - len(self.law.prompt)))


def family_of(folder: Path) -> str | None:
    """The family of a transformers folder, None for others; a CheckpointError for a config.json that is none."""
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except OSError:
        return None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a model's configuration ({error}); copy the folder again whole") from error
    return kind if kind in FAMILIES else None


def default_config(folder: Path) -> Seq2SeqConfig:
    """The configuration of a transformers folder without one of ours; a ConfigError for another kind of model."""
    family = family_of(folder)
    if family is None:
        raise ConfigError(f"{folder}: not a recogniser that is known, expected one of {', '.join(FAMILIES)}")
    return Seq2SeqConfig(family="whisper", extra=8) if family == "whisper" else Seq2SeqConfig()


def empty_model(config: Seq2SeqConfig, folder: Path) -> SpeechSeq2Seq:
    """The model of a folder's config.json, its weights not set yet."""
    from speechmtp.models.causal_lm import quiet_transformers

    family = FAMILIES[config.family]
    try:
        with quiet_transformers():
            sizes = family.config.from_pretrained(str(folder))
            generation = GenerationConfig.from_pretrained(str(folder))
            extractor = AutoFeatureExtractor.from_pretrained(str(folder)) if config.family == "whisper" else None
            model = family.model(sizes)
        return SpeechSeq2Seq(config, model, extractor, generation).eval()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded as {config.family}: {reason}") from error
