"""A Qwen2-Audio of a few thousand random weights that hears up to two seconds, with its processor, as a folder."""

from pathlib import Path
from typing import Any

import tiny
import torch
from small_lm import LINES

SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
ENDS = (1, 0)


def write_audio_lm(folder: Path, seed: int = 0, tied: bool = False, chat: bool = True) -> Path:
    """Two layers each; two tokens end a text. `tied`: the unembedding is not stored; `chat`: with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings: dict[str, Any] = {"vocab_size": 300, "special_tokens": list(SPECIAL), "show_progress": False}
    tokens.train_from_iterator(LINES, trainers.BpeTrainer(**settings, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=SPECIAL[0], eos_token=SPECIAL[1], additional_special_tokens=list(SPECIAL[2:])
    )
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    size = len(tokenizer) + 2
    text: dict[str, Any] = {
        "model_type": "qwen2", "vocab_size": size, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": tied, "pad_token_id": 0,
        "bos_token_id": None, "eos_token_id": ENDS[0], "max_position_embeddings": 512,
    }  # fmt: skip
    audio: dict[str, Any] = {
        "model_type": "qwen2_audio_encoder", "num_mel_bins": 8, "encoder_layers": 1, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24, "d_model": 16, "max_source_positions": 100,
    }  # fmt: skip
    with torch.random.fork_rng():
        model: Any = Qwen2AudioForConditionalGeneration(
            Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=3)
        )
    tiny.randomise(model, seed, 3.0)
    with torch.no_grad():
        model.get_output_embeddings().weight[list(ENDS)] *= 2.0
    model.generation_config = GenerationConfig(eos_token_id=list(ENDS), pad_token_id=0)
    model.float().save_pretrained(folder)
    processor: Any = Qwen2AudioProcessor(extractor, tokenizer)
    processor.save_pretrained(folder)
    if tied:
        _without_unembedding(folder / "model.safetensors")
    if not chat:
        (folder / "chat_template.jinja").unlink()
    return folder


def _without_unembedding(path: Path) -> None:
    """A file of weights as one is that relies on the text's `tie_word_embeddings`."""
    from safetensors.torch import load_file, save_file

    state = load_file(path)
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("lm_head.weight")}
    assert len(kept) == len(state) - 1
    save_file(kept, path, {"format": "pt"})
