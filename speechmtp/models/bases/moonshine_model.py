"""Moonshine in plain PyTorch: what transformers' `MoonshineForConditionalGeneration` computes, without importing it.

Importing transformers' class takes longer than transcribing a minute of audio with it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechmtp.models.bases.moonshine_layers import MoonshineDecoderLayer, MoonshineEncoderLayer, RotaryEmbedding
from speechmtp.models.bases.moonshine_sizes import MoonshineSizes
from speechmtp.models.lean_model import LeanModel


@dataclass(frozen=True)
class Hidden:
    """The output [B, S, C] of the encoder or the decoder, under transformers' name."""

    last_hidden_state: Tensor


class WaveConv(nn.Conv1d):
    """A convolution of one channel. Without gradients, on a CPU and in single or double precision it is one matrix
    product with the overlapping frames, in a third to a half of the time."""

    def forward(self, input: Tensor) -> Tensor:
        """Map samples [B, 1, N] to [B, C, T]."""
        plain = torch.is_grad_enabled() or not input.is_cpu or input.dtype not in (torch.float32, torch.float64)
        if plain or torch.is_autocast_enabled("cpu") or self.bias is not None:
            return super().forward(input)
        [size], [stride] = self.kernel_size, self.stride
        frames = input[:, 0].unfold(1, size, stride).contiguous()
        return torch.matmul(self.weight[:, 0], frames.transpose(1, 2))


class LeanEncoder(nn.Module):
    """Three convolutions and layers of full attention."""

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__()
        self.config, width = sizes, sizes.hidden_size
        self.conv1 = WaveConv(1, width, 127, 64, bias=False)
        self.conv2 = nn.Conv1d(width, 2 * width, 7, 3)
        self.conv3 = nn.Conv1d(2 * width, width, 3, 2)
        self.groupnorm = nn.GroupNorm(1, width, eps=1e-5)
        self.layers = nn.ModuleList(
            MoonshineEncoderLayer(sizes, layer) for layer in range(sizes.encoder_num_hidden_layers)
        )
        self.layer_norm = nn.LayerNorm(width, bias=False)
        self.rotary_emb = RotaryEmbedding(sizes)

    def forward(self, input_values: Tensor) -> Hidden:
        """Encode samples [B, N] of one length."""
        x = self.groupnorm(torch.tanh(self.conv1(input_values[:, None])))
        x = F.gelu(self.conv3(F.gelu(self.conv2(x)))).transpose(1, 2).contiguous()
        turn = self.rotary_emb.turn(x, torch.arange(x.shape[1], device=x.device)[None])
        for layer in self.layers:
            x = layer(x, turn)
        return Hidden(self.layer_norm(x))


class LeanDecoder(nn.Module):
    """Layers of causal attention that also see the encoder outputs."""

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__()
        self.config = sizes
        self.embed_tokens = nn.Embedding(sizes.vocab_size, sizes.hidden_size, sizes.pad_token_id)
        self.layers = nn.ModuleList(
            MoonshineDecoderLayer(sizes, layer) for layer in range(sizes.decoder_num_hidden_layers)
        )
        self.norm = nn.LayerNorm(sizes.hidden_size, bias=False)
        self.rotary_emb = RotaryEmbedding(sizes)

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor | None, position_ids: Tensor,
        encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None = None, cache: Any = None,
        use_cache: bool = False,
    ) -> Hidden:  # fmt: skip
        """Process entries [B, Q, C] at positions [B, Q]; masks are additive.

        Without a cache the layers attend to `encoder_hidden_states` [B, S, C]; a `MemoryCache` has their keys and
        values, and takes those of the entries.
        """
        x, turn = inputs_embeds, self.rotary_emb.turn(inputs_embeds, position_ids)
        for number, layer in enumerate(self.layers):
            kept = None if cache is None else cache.cross[number]
            x = layer(x, attention_mask, turn, cache, encoder_hidden_states, kept, encoder_attention_mask)
        return Hidden(self.norm(x))


class LeanMoonshine(LeanModel):
    """Moonshine's encoder, decoder and output layer, with the names of transformers' weights."""

    def __init__(self, sizes: MoonshineSizes) -> None:
        super().__init__(sizes)
        self.model = nn.Module()
        self.model.encoder, self.model.decoder = LeanEncoder(sizes), LeanDecoder(sizes)
        self.proj_out = nn.Linear(sizes.hidden_size, sizes.vocab_size, bias=False)
        if sizes.tie_word_embeddings:
            self.proj_out.weight = self.model.decoder.embed_tokens.weight

    def get_encoder(self) -> LeanEncoder:
        """Return the encoder."""
        return self.model.encoder  # type: ignore[return-value]

    def get_decoder(self) -> LeanDecoder:
        """Return the decoder without the output layer."""
        return self.model.decoder  # type: ignore[return-value]

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of tokens."""
        return self.get_decoder().embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        """Return the output layer."""
        return self.proj_out

    def new_twin(self) -> Any:
        """Return transformers' own model of these sizes, with undefined weights."""
        from transformers import MoonshineForConditionalGeneration

        return MoonshineForConditionalGeneration(self.config.whole())
