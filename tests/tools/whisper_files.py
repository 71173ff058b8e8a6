"""A tiny Whisper, and folders that hold it as CTranslate2 and faster-whisper do; the conversion as a module."""

import importlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

import tiny
import tokenizers
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
tool: Any = importlib.import_module("from_ctranslate2")

CODES = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4, torch.bfloat16: 5}
OTHERS = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>")
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
ENGLISH = 51864  # tokens of every model that knows no other language: 50256 pieces, 107 special ones, 1501 timestamps


def vocabulary(pieces: int, languages: int, timestamps: int) -> list[str]:
    """Strings of all ids, in the order of every Whisper: bytes and pairs of them, special tokens, timestamps."""
    text = [*BYTES, *(first + second for first in BYTES for second in BYTES)][:pieces]
    names = ["<|en|>", *(f"<|x{i}|>" for i in range(languages - 1))]
    times = [f"<|{0.02 * i:.2f}|>" for i in range(timestamps)]
    return [*text, "<|endoftext|>", "<|startoftranscript|>", *names, *OTHERS, *times]


SMALL = vocabulary(270, 2, 3)


def model_of(tokens: list[str], dtype: torch.dtype = torch.float32) -> WhisperForConditionalGeneration:
    """A tiny Whisper of random weights for these tokens."""
    config = WhisperConfig(
        vocab_size=len(tokens), d_model=tiny.WIDTH, num_mel_bins=80, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=20,
        max_source_positions=1500, max_target_positions=60, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = WhisperForConditionalGeneration(config)
    tiny.randomise(model, 1, 2.0)
    return model.to(dtype)


def layer_variables(state: dict[str, Tensor], side: str, layer: int) -> dict[str, Tensor]:
    """One layer under CTranslate2's names, projections fused, zeros for the bias that keys do not have."""
    found: dict[str, Tensor] = {}

    def put(name: str, *sources: str) -> None:
        for leaf in ("weight", "bias"):
            parts = [state.get(f"model.{side}.layers.{layer}.{source}.{leaf}") for source in sources]
            zeros = torch.zeros(tiny.WIDTH, dtype=state["proj_out.weight"].dtype)
            key = {"weight": "gamma", "bias": "beta"}[leaf] if "norm" in name else leaf
            found[f"{side}/layer_{layer}/{name}/{key}"] = torch.cat([zeros if p is None else p for p in parts])

    put("self_attention/linear_0", *(f"self_attn.{part}_proj" for part in "qkv"))
    put("self_attention/linear_1", "self_attn.out_proj")
    put("self_attention/layer_norm", "self_attn_layer_norm")
    put("ffn/layer_norm", "final_layer_norm")
    put("ffn/linear_0", "fc1")
    put("ffn/linear_1", "fc2")
    if side == "decoder":
        put("attention/linear_0", "encoder_attn.q_proj")
        put("attention/linear_1", "encoder_attn.k_proj", "encoder_attn.v_proj")
        put("attention/linear_2", "encoder_attn.out_proj")
        put("attention/layer_norm", "encoder_attn_layer_norm")
    return found


def variables_of(model: WhisperForConditionalGeneration) -> dict[str, Tensor]:
    """All variables of a model as CTranslate2 names them."""
    state, found = model.state_dict(), dict[str, Tensor]()
    for side, count in (("encoder", 1), ("decoder", 2)):
        for layer in range(count):
            found |= layer_variables(state, side, layer)
        found[f"{side}/layer_norm/gamma"] = state[f"model.{side}.layer_norm.weight"]
        found[f"{side}/layer_norm/beta"] = state[f"model.{side}.layer_norm.bias"]
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        found[f"{side}/num_heads"] = torch.tensor(2 if side == "encoder" else 4, dtype=torch.int16)
    for conv in ("conv1", "conv2"):
        for leaf in ("weight", "bias"):
            found[f"encoder/{conv}/{leaf}"] = state[f"model.encoder.{conv}.{leaf}"]
    found["decoder/embeddings/weight"] = state["proj_out.weight"]
    for name, value in (("activation", 3), ("pre_norm", 1), ("alibi", 0), ("scale_embeddings", 0)):
        found[f"decoder/{name}"] = torch.tensor(value, dtype=torch.int8)
    return found


def string(text: str) -> bytes:
    """A length that counts the NUL, and the bytes."""
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def binary(
    variables: dict[str, Tensor], spec: str = "WhisperSpec", version: int = 6, revision: int = 3,
    aliases: tuple[tuple[str, str], ...] = (("decoder/projection/weight", "decoder/embeddings/weight"),),
) -> bytes:  # fmt: skip
    """A `model.bin`."""
    parts = [struct.pack("<I", version), string(spec), struct.pack("<II", revision, len(variables))]
    for name, value in variables.items():
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        parts += [string(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", CODES[value.dtype], len(data)), data]
    parts.append(struct.pack("<I", len(aliases)))
    return b"".join([*parts, *(string(one) + string(other) for one, other in aliases)])


def write_folder(folder: Path, tokens: list[str], data: bytes) -> Path:
    """What faster-whisper's folders hold; the tokenizer knows no timestamps, which are in the vocabulary alone."""
    folder.mkdir()
    (folder / "model.bin").write_bytes(data)
    eos = tokens.index("<|endoftext|>")
    settings = {"suppress_ids": [1, 7, eos + 1], "suppress_ids_begin": [5, eos], "alignment_heads": [[0, 1], [1, 3]]}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocabulary.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    merges = [(piece[0], piece[1]) for piece in tokens[:eos] if len(piece) > 1]
    built = tokenizers.Tokenizer(tokenizers.models.BPE({token: i for i, token in enumerate(tokens[:eos])}, merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    built.add_special_tokens(tokens[eos : tokens.index("<|notimestamps|>") + 1])
    built.save(str(folder / "tokenizer.json"), pretty=False)
    return folder
