"""Encoder, adapter and trunk as one module that turns features into a prompt."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from speechmtp.models.adapter import AdapterConfig, AudioPrompt, CtcMergeConfig, build_adapter
from speechmtp.models.encoder import Encoder, EncoderConfig, EncoderOutput
from speechmtp.models.trunk import ScratchTrunkConfig, TrunkConfig, build_trunk
from speechmtp.types import Prompt


@dataclass(frozen=True)
class ModelConfig:
    """Configurations of encoder, adapter and trunk."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    adapter: AdapterConfig = field(default_factory=CtcMergeConfig)
    trunk: TrunkConfig = field(default_factory=ScratchTrunkConfig)


class EncoderLM(nn.Module):
    """An encoder, an adapter and a decoder that reads their audio prompt; `bos` is the start token of the text."""

    def __init__(self, config: ModelConfig, vocab_size: int, bos: int) -> None:
        super().__init__()
        self.config, self.bos = config, bos
        self.encoder = Encoder(config.encoder, vocab_size)
        self.trunk = build_trunk(config.trunk, vocab_size)
        self.adapter = build_adapter(config.adapter, config.encoder.width, vocab_size + 1, self.trunk.width)

    def encode_audio(self, frames: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode features [B, T, F] with `lengths` [B] in frames."""
        out: EncoderOutput = self.encoder(frames, lengths)
        return out

    def prompt(self, out: EncoderOutput) -> Prompt:
        """Return the prompt: audio entries, then the start token as the last entry of every row."""
        return self.close_prompt(self.adapter(self.adapter.segments(out)))

    def close_prompt(self, audio: AudioPrompt) -> Prompt:
        """Append the start token to the audio entries."""
        rows, size, width = audio.embeddings.shape
        bos = self.trunk.embed(torch.tensor(self.bos, device=audio.embeddings.device)).to(audio.embeddings.dtype)
        at = torch.arange(size + 1, device=audio.embeddings.device) == audio.lengths[:, None]
        embeddings = torch.cat([audio.embeddings, audio.embeddings.new_zeros(rows, 1, width)], 1)
        positions = torch.cat([audio.positions, audio.positions.new_zeros(rows, 1)], 1)
        return Prompt(
            torch.where(at[..., None], bos, embeddings),
            torch.where(at, audio.text_position[:, None], positions),
            audio.lengths + 1,
            audio.text_position + 1,
        )
