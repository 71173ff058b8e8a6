"""transformers folders: their model type, tokenizer, and weights as transformers wrote them or packed by us."""

import json
import lzma
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from speechmtp.errors import CheckpointError
from speechmtp.models.bases.weights import PICKLED, SAFE, unreadable, weight_files
from speechmtp.models.quiet import quiet_transformers
from speechmtp.models.storage import (
    SCALE,
    Storage,
    is_finite,
    load_state,
    pack,
    read_weights,
    refuse_misfits,
    unpack,
    without_random_weights,
)

EIGHT_BITS = ("I8", "U8")  # safetensors' names of the dtypes of packed integers
# Sizes are bounded where a wrong one would take hours or all memory; weights that do not fit are refused anyway.
_SIZE = re.compile(r"(?:^|_)(?:(layers|heads)|(?:hidden|intermediate|vocab)_size|d_model|ffn_dim)$")
_MOST_LAYERS, _MOST_WIDTH = 4096, 1 << 24
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


def check_sizes(folder: Path) -> None:
    """Raise CheckpointError for sizes in config.json that no model has, before any weight is allocated."""
    path = folder / "config.json"
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        for part in (settings, *(value for value in settings.values() if isinstance(value, dict))):
            for name, value in part.items():
                found = _SIZE.search(name)
                most = _MOST_LAYERS if found and found[1] else _MOST_WIDTH
                if found and isinstance(value, int) and not 0 <= value <= most:
                    raise CheckpointError(
                        f"{path}: {name}={value}, expected at most {most}; copy the folder again whole"
                    )


def tokenizer_files(folder: Path) -> bool:
    """Whether a folder has a tokenizer."""
    return any((folder / name).exists() for name in TOKENIZERS)


def tokenizer_json(folder: Path) -> tuple[bytes, str]:
    """Return the JSON of a folder's tokenizer, as in `tokenizer.json`, and the path of the file it is from.
    transformers converts older files, such as vocab.json with merges.txt. CheckpointError if none can be read."""
    for name in ("tokenizer.json.xz", "tokenizer.json"):
        path = folder / name
        try:
            data = path.read_bytes()
            return lzma.decompress(data) if path.suffix == ".xz" else data, str(path)
        except FileNotFoundError:
            continue
        except (OSError, lzma.LZMAError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); copy it again whole") from error
    older = next((folder / name for name in TOKENIZERS if (folder / name).exists()), None)
    if older is None:
        raise CheckpointError(f"{folder}: no tokenizer; copy tokenizer.json of the model that it was trained from")
    return _converted(folder).encode(), str(older)


def _converted(folder: Path) -> str:
    """Return the JSON that transformers converts a tokenizer of older files to; CheckpointError if it has other ids."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokens = AutoTokenizer.from_pretrained(str(folder)).backend_tokenizer
        known = tokens.get_vocab(with_added_tokens=True)
        stored = [folder / name for name in ("vocab.json", "added_tokens.json")]
        ids = {k: v for path in stored if path.exists() for k, v in json.loads(path.read_text("utf-8")).items()}
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be read without tokenizer.json ({reason}); copy tokenizer.json of the "
            f"model that it was trained from"
        ) from error
    other = next((token for token, number in ids.items() if known.get(token) != number), None)
    if other is not None:
        raise CheckpointError(
            f"{folder}: token {other!r} is {ids[other]} in its files and {known.get(other)} in the converted "
            f"tokenizer; copy tokenizer.json of the model that it was trained from"
        )
    text: str = tokens.to_str()
    return text


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
    save_file(pack(model.state_dict(), storage), folder / SAFE, {"format": "pt"})


def loaded(kind: Any, folder: Path, wanted: str) -> Any:
    """Load a transformers model of class `kind`, in float32 on the CPU; CheckpointError if tensors are missing, left
    over within the model's own parts, of another shape or dtype, or not finite. Errors call it `wanted`."""
    path = folder / SAFE
    if path.exists() and _rounded(path):  # packed by us
        from transformers import GenerationConfig

        with quiet_transformers(), without_random_weights():
            model = kind(kind.config_class.from_pretrained(str(folder)))
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
        state = unpack(read_weights(path))
        tied(model, set(model.state_dict()) - set(state))
        load_state(model, state, path, adopt=True)
        return model
    files = weight_files(folder) if folder.is_dir() else [folder / PICKLED]  # else the name of a model hub
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(str(folder), **options)
    except pickle.UnpicklingError as error:
        raise unreadable(files[0], error) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: cannot be loaded as {wanted}: {reason}") from error
    _check_fit(folder, model, info)
    return model


def _check_fit(folder: Path, model: Any, info: Mapping[str, Any]) -> None:
    """Raise CheckpointError if transformers' loading left out, made up or changed tensors: it fills missing ones with
    random numbers, and takes integers for floats."""
    shapes = {name: f"{name} {list(found)}, expected {list(own)}" for name, found, own in info["mismatched_keys"]}
    missing = {*info["missing_keys"], *shapes}
    lost = missing - tied(model, missing)
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    whole = getattr(model.config, "quantization_config", None) is None
    refuse_misfits(folder, {
        "missing": sorted(lost - shapes.keys()),
        "of another shape": sorted(shapes[name] for name in lost & shapes.keys()),
        "unexpected": sorted(name for name in info["unexpected_keys"] if name.partition(".")[0] in parts),
        "integers without their scales": _integers(folder, model) if whole else [],
        "with NaN or infinity": [name for name, weight in model.named_parameters() if not is_finite(weight)],
    })  # fmt: skip


def _integers(folder: Path, model: Any) -> list[str]:
    """Return the names of stored integers in place of a model's floats."""
    own, found = model.state_dict(), []
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                kind = file.get_slice(name).get_dtype()
                is_float = own[name].is_floating_point() if name in own else kind in EIGHT_BITS
                if is_float and not kind.startswith(("F", "BF")):
                    found.append(name)
    return found


def _rounded(path: Path) -> bool:
    """Whether a file holds 8-bit integers with scales; False if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            scaled = (name for name in names if name + SCALE in names)
            return any(file.get_slice(name).get_dtype() in EIGHT_BITS for name in scaled)
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
