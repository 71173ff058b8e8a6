"""Turn a Whisper folder in CTranslate2's format (as faster-whisper uses) into a transformers folder.

The folder holds model.bin, config.json, tokenizer.json and vocabulary.txt or vocabulary.json. Sizes come from the
shapes of the tensors, since its config.json names no architecture. Float matrices only.
"""

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ctranslate2_format import read_model
from torch import Tensor

from speechmtp.errors import CheckpointError, SpeechMTPError

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

# Settings that change the architecture, and the only value of each that transformers' Whisper has (3 is exact GELU).
ARCHITECTURE = {
    "decoder/activation": 3,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}

# Modules whose names differ; a fused matrix of a layer is split by rows among several.
SIDE_MODULES = {"embeddings": "embed_tokens", "position_encodings": "embed_positions"}
LAYER_MODULES = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
LEAVES = {"gamma": "weight", "beta": "bias", "encodings": "weight"}

END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
TRANSLATE, TRANSCRIBE, PREVIOUS = "<|translate|>", "<|transcribe|>", "<|startofprev|>"
SPECIAL = (END, START, TRANSLATE, TRANSCRIBE, PREVIOUS, NO_TIMESTAMPS)
# English models have one token less, and all special ids one lower, than the multilingual ones whose names they keep.
ENGLISH_SIZE = 51864


def _check_architecture(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError if a setting asks for what transformers' Whisper does not compute."""
    for name, expected in ARCHITECTURE.items():
        if name in tensors and int(tensors[name]) != expected:
            raise CheckpointError(
                f"{path}: {name} is {int(tensors[name])}, {expected} expected; this is no Whisper that transformers has"
            )


def to_state_dict(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under transformers' names; fused q, k, v split, the k bias (all zeros) dropped."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or name == "decoder/projection/weight":
            continue
        match = re.fullmatch(r"(\w+)/(?:layer_(\d+)/)?(.+)/(\w+)", name)
        side, index, module, leaf = match.groups() if match else ("", None, name, "")
        leaf = LEAVES.get(leaf, leaf)
        targets = (SIDE_MODULES.get(module, module),) if index is None else LAYER_MODULES.get(module, (module,))
        prefix = f"model.{side}." if index is None else f"model.{side}.layers.{index}."
        for target, part in zip(targets, tensor.chunk(len(targets))):
            if not (target.endswith("k_proj") and leaf == "bias"):
                state[f"{prefix}{target}.{leaf}"] = part
            elif bool(part.any()):
                raise CheckpointError(f"{path}: {name} has a key part that is not zero; Whisper's keys have no bias")
    embedding = tensors.get("decoder/embeddings/weight", torch.zeros(0))
    if not torch.equal(tensors.get("decoder/projection/weight", embedding), embedding) or embedding.ndim != 2:
        raise CheckpointError(f"{path}: no embedding, or one not tied to the projection; Whisper's are one matrix")
    return state | {"proj_out.weight": embedding}


def model_config(path: Path, tensors: Mapping[str, Tensor], special: Mapping[str, int]) -> "WhisperConfig":
    """Architecture from the shapes of the tensors, special ids by token."""
    from transformers import WhisperConfig

    def layers(side: str) -> int:
        return len({name.split("/")[1] for name in tensors if name.startswith(f"{side}/layer_") and "ffn" in name})

    try:
        vocabulary, width = tensors["decoder/embeddings/weight"].shape
        return WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            num_mel_bins=tensors["encoder/conv1/weight"].shape[1],
            max_source_positions=len(tensors["encoder/position_encodings/encodings"]),
            max_target_positions=len(tensors["decoder/position_encodings/encodings"]),
            encoder_layers=layers("encoder"),
            decoder_layers=layers("decoder"),
            encoder_attention_heads=int(tensors["encoder/num_heads"]),
            decoder_attention_heads=int(tensors["decoder/num_heads"]),
            encoder_ffn_dim=len(tensors["encoder/layer_0/ffn/linear_0/weight"]),
            decoder_ffn_dim=len(tensors["decoder/layer_0/ffn/linear_0/weight"]),
            activation_function="gelu",
            scale_embedding=False,
            bos_token_id=special[START] if vocabulary == ENGLISH_SIZE else special[END],
            eos_token_id=special[END],
            pad_token_id=special[END],
            decoder_start_token_id=special[START],
            begin_suppress_tokens=None,
        )
    except KeyError as error:
        raise CheckpointError(f"{path}: no {error.args[0]}, which every Whisper has; copy the file again") from None


def _read_json(path: Path) -> Any:
    """A JSON file of the folder; CheckpointError if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}, a JSON file expected; take the whole folder") from None


def read_vocabulary(folder: Path, size: int) -> list[str]:
    """String of each of the `size` ids, from vocabulary.json or vocabulary.txt (one a line)."""
    text = folder / "vocabulary.txt"
    # One line may be empty (id 50256 of the multilingual models): only the last newline ends nothing.
    tokens: list[str] = (
        text.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
        if text.exists()
        else _read_json(folder / "vocabulary.json")
    )
    if len(tokens) != size:
        raise CheckpointError(
            f"{folder}: {len(tokens)} tokens and {size} embeddings, as many of both expected; "
            "take the vocabulary that belongs to model.bin"
        )
    return tokens


def special_ids(folder: Path, vocabulary: Sequence[str], tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens `<|...|>`, timestamps among them; CheckpointError where vocabulary and tokenizer disagree."""
    special = {token: i for i, token in enumerate(vocabulary) if re.fullmatch(r"<\|.+\|>", token)}
    try:
        known = {
            **tokenizer["model"]["vocab"],
            **{added["content"]: added["id"] for added in tokenizer["added_tokens"]},
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}/tokenizer.json: {error!r}, a tokenizer expected; take the whole folder"
        ) from None
    for token in SPECIAL:
        if special.get(token) != known.get(token) or token not in special:
            raise CheckpointError(
                f"{folder}: {token} is {special.get(token)} in the vocabulary and {known.get(token)} in "
                "tokenizer.json, one id expected; take the files that belong together"
            )
    return special


def complete_tokenizer(tokenizer: Mapping[str, Any], special: Mapping[str, int]) -> dict[str, Any]:
    """`tokenizer.json` with every special token, so that timestamps decode and are skipped like the others."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = {item["id"]: item for item in tokenizer["added_tokens"]}
    # Some published files have the timestamps as ordinary tokens, which would stay in every transcript.
    added |= {i: {"id": i, "content": token, **flags} for token, i in special.items()}
    return {**tokenizer, "added_tokens": [added[i] for i in sorted(added)]}


def tokenizer_config(special: Mapping[str, int]) -> dict[str, Any]:
    """What AutoTokenizer needs beside tokenizer.json."""
    return dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END) | {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": [token for token, i in special.items() if i <= special[NO_TIMESTAMPS]],
        "model_max_length": 448,
        "processor_class": "WhisperProcessor",
        "tokenizer_class": "WhisperTokenizer",
    }


def generation_config(
    config: "WhisperConfig", settings: Mapping[str, Any], special: Mapping[str, int]
) -> "GenerationConfig":
    """The distribution of `generate`: prompt ids, suppressed ids, languages and tasks, alignment heads where given.

    Timestamps are not suppressed: `generate` without `return_timestamps` says so by the prompt, and one that asks
    for them needs them. The tokenizer skips them.
    """
    from transformers import GenerationConfig

    multilingual = config.vocab_size != ENGLISH_SIZE
    values: dict[str, Any] = {
        "suppress_tokens": settings.get("suppress_ids"),
        "begin_suppress_tokens": settings.get("suppress_ids_begin"),
        "alignment_heads": settings.get("alignment_heads"),
    }
    if multilingual:
        languages = range(special[START] + 1, special[TRANSLATE])
        values["lang_to_id"] = {token: i for token, i in special.items() if i in languages}
        values["task_to_id"] = {"transcribe": special[TRANSCRIBE], "translate": special[TRANSLATE]}
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=special[END],
        pad_token_id=special[END],
        decoder_start_token_id=special[START],
        prev_sot_token_id=special[PREVIOUS],
        no_timestamps_token_id=special[NO_TIMESTAMPS],
        is_multilingual=multilingual,
        max_initial_timestamp_index=50,
        max_length=config.max_target_positions,
        return_timestamps=False,
        **{name: value for name, value in values.items() if value is not None},
    )


def load(path: Path, state: Mapping[str, Tensor], config: "WhisperConfig") -> "WhisperForConditionalGeneration":
    """The model of `config` with exactly the tensors of `state`; CheckpointError names what is missing or misshapen."""
    from transformers import WhisperForConditionalGeneration

    try:
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
        model.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: {reason}; the tensors of one Whisper expected; copy the file again") from None
    model.tie_weights()
    return model


def convert(folder: Path, out: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Write the Whisper of `folder` in transformers' format to `out`; what was written.

    `dtype` None keeps the embedding's. Raises CheckpointError before anything is written.
    """
    from transformers import WhisperFeatureExtractor

    path = folder / "model.bin"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no model.bin in it, a CTranslate2 Whisper folder expected; give its path")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists, a new or empty folder expected; give another path")
    tensors = read_model(path)
    _check_architecture(path, tensors)
    state = to_state_dict(path, tensors)
    settings, tokenizer = _read_json(folder / "config.json"), _read_json(folder / "tokenizer.json")
    special = special_ids(folder, read_vocabulary(folder, len(state["proj_out.weight"])), tokenizer)
    config = model_config(path, tensors, special)
    model: Any = load(path, state, config)
    model = model.to(dtype=dtype or state["proj_out.weight"].dtype)
    model.generation_config = generation_config(config, settings, special)
    model.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(out)
    for name, content in (
        ("tokenizer.json", complete_tokenizer(tokenizer, special)),
        ("tokenizer_config.json", tokenizer_config(special)),
    ):
        (out / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return sorted(out.iterdir())


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert a folder and print what was written; a fault of the folder is one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with model.bin, config.json, tokenizer.json, vocabulary.*")
    parser.add_argument("out", type=Path, help="new folder to write")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="of the weights (default: the file's)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        written = convert(options.folder, options.out, getattr(torch, options.dtype) if options.dtype else None)
    except (SpeechMTPError, OSError) as error:
        raise SystemExit(f"from_ctranslate2: {error}") from None
    for path in written:
        print(f"{path}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
