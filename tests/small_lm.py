"""Causal LMs of transformers with a few thousand random weights and a BPE tokenizer trained here, as folders."""

from pathlib import Path
from typing import Any

import torch

from speechmtp.bundle import load_without_heads
from speechmtp.models.bases.causal_lm import CausalLM

LINES = [
    "the cat sat on the mat and the dog sat on the cat", "one two three four five six seven eight nine ten",
    "a dog ran to the house and back again to the cat", "three cats and seven dogs ran on and on and on",
    "the house on the hill is the house of the dog",
]  # fmt: skip


def write_lm(folder: Path, family: str = "llama", bos: bool = True, tied: bool = True) -> Path:
    """A model of 2 layers; with `bos` its tokenizer puts <s> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {"vocab_size": 60, "special_tokens": ["<s>", "</s>"], "show_progress": False}
    tokens.train_from_iterator(LINES, trainers.BpeTrainer(**settings))
    if bos:
        tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>").save_pretrained(str(folder))
    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": None, "tie_word_embeddings": tied, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    llama = family == "llama"
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if llama else Qwen3ForCausalLM(Qwen3Config(**sizes))
    model.save_pretrained(folder)
    return folder


def load_lm(folder: Path) -> CausalLM:
    """The model of a folder."""
    model = load_without_heads(str(folder)).model
    assert isinstance(model, CausalLM)
    return model


def write_text(path: Path, copies: int = 2) -> Path:
    """A text file, a text a line, with a blank one and one that is too short for a prompt."""
    path.write_text("\n".join([*LINES * copies, "", "a"]) + "\n")
    return path
