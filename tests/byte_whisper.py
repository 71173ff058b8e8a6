"""A tiny multilingual Whisper whose tokenizer is byte-level BPE as that of the real ones, as a folder."""

from pathlib import Path

import tiny
import torch
from small_lm import LINES

SPECIAL = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
    "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>",
)  # fmt: skip


def write_byte_whisper(folder: Path, seed: int = 0) -> Path:
    """It hears one second; some ids are never said, others never first, and an output has at most 30 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
    )

    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=280, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),  # type: ignore[call-arg]
    )
    first = tokens.get_vocab_size()
    tokens.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=SPECIAL[0]).save_pretrained(str(folder))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "WhisperTokenizer"}')
    ids = {name: first + place for place, name in enumerate(SPECIAL)}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=first + len(SPECIAL), d_model=tiny.WIDTH, num_mel_bins=8, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        max_source_positions=50, max_target_positions=60, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = WhisperForConditionalGeneration(config)
    tiny.randomise(model, seed, 3.0)
    model.generation_config = GenerationConfig(
        bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=[1, 2, 7],
        begin_suppress_tokens=[end, 5], no_timestamps_token_id=ids["<|notimestamps|>"], is_multilingual=True,
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|de|>")}, max_length=30,
        task_to_id={name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")},
    )  # fmt: skip
    model.float().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return folder
