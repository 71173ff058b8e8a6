"""transformers folders: their model type, and their weights as transformers wrote them or packed by us."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.storage import (
    SCALE,
    Storage,
    load_state,
    pack,
    read_weights,
    unpack,
    without_random_weights,
)

PACKED = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


def model_type(folder: Path) -> str | None:
    """Return `model_type` of config.json, empty if not given; None without the file, CheckpointError if invalid."""
    path = folder / "config.json"
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return str(found.get("model_type", ""))
    except OSError:
        return None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a model's configuration ({error}); copy the folder again whole") from error


def tokenizer_files(folder: Path) -> bool:
    """Whether a folder has a tokenizer."""
    return any((folder / name).exists() for name in TOKENIZERS)


def has_chat_template(folder: Path) -> bool:
    """Whether a folder has a chat template."""
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    settings = [folder / name for name in ("processor_config.json", "tokenizer_config.json")]
    return any(path.exists() and "chat_template" in json.loads(path.read_text(encoding="utf-8")) for path in settings)


def saved(model: Any, folder: Path, storage: Storage) -> None:
    """Write a transformers model: its own files for `float32`, else configurations and weights packed as `storage`."""
    with quiet_transformers():
        if storage == "float32":
            model.save_pretrained(folder)
            return
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    save_file(pack(model.state_dict(), storage), folder / PACKED, {"format": "pt"})


def loaded(kind: Any, folder: Path, wanted: str) -> Any:
    """Load a transformers model of class `kind`, in float32 on the CPU; CheckpointError if tensors are missing. Errors
    call it `wanted`."""
    path = folder / PACKED
    if path.exists() and _rounded(path):  # packed by us
        from transformers import GenerationConfig

        with quiet_transformers(), without_random_weights():
            model = kind(kind.config_class.from_pretrained(str(folder)))
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
        state = unpack(read_weights(path))
        tied(model, set(model.state_dict()) - set(state))
        load_state(model, state, path)
        return model
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded as {wanted}: {reason}") from error
    missing = {*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])}
    lost = sorted(missing - tied(model, missing))
    if lost:  # transformers would use random ones
        raise CheckpointError(
            f"{folder}: {len(lost)} tensors are missing or of another shape (first: {lost[0]}); copy it again whole"
        )
    return model


def _rounded(path: Path) -> bool:
    """Whether a file holds integers with scales; False if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return any(name.endswith(SCALE) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def tied(model: Any, missing: set[str]) -> set[str]:
    """Tie the output layer to the embedding, if its weight is `missing` and the text configuration says that they are
    tied. Return the tied names, which need not be stored."""
    out = model.get_output_embeddings()
    name = next((f"{name}.weight" for name, module in model.named_modules() if module is out), "")
    if name not in missing or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return set()
    out.weight = model.get_input_embeddings().weight
    return {name}


def end_tokens(folder: Path, model: Any) -> tuple[int, ...]:
    """Return the end tokens of a model's generation settings, or else of its configuration; ConfigError for none."""
    for settings in (model.generation_config, model.config.get_text_config()):
        found = getattr(settings, "eos_token_id", None)
        if found is not None:
            return tuple(int(one) for one in (found if isinstance(found, (list, tuple)) else [found]))
    raise ConfigError(f"{folder}: no end token; set eos_token_id in its generation_config.json")
