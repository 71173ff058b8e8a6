"""Weights of transformers folders: the files that hold them, in one piece or in shards, and their tensors."""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechmtp.errors import CheckpointError
from speechmtp.models.files import check_file
from speechmtp.models.storage import read_weights

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
# In transformers' order; an index maps the name of each tensor to its shard.
_FILES = (SAFE, f"{SAFE}.index.json", PICKLED, f"{PICKLED}.index.json")
_OTHERS = {"tf_model.h5": "from_tf", "flax_model.msgpack": "from_flax"}
_TO_SAFETENSORS = (
    'python -c "import torch, sys; from safetensors.torch import save_file; s = torch.load(sys.argv[1] + '
    "'/pytorch_model.bin', weights_only=False); save_file({k: v.clone() for k, v in s.items()}, sys.argv[1] + "
    "'/model.safetensors', {'format': 'pt'})\""
)


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights that can be read."""
    return any((folder / name).exists() for name in _FILES)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights; CheckpointError if there are none, or if one is missing or only
    the pointer that Git LFS leaves."""
    first = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if first is None:
        raise CheckpointError(f"{folder}: {_nothing_to_read(folder)}")
    files = [first] if first.suffix != ".json" else _shards(first)
    for path in files:
        if not path.exists():
            raise CheckpointError(f"{path}: missing, and {first.name} names it; copy the folder again whole")
        check_file(path)
    return files


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Return the stored tensors of a folder, from all its files; CheckpointError as `weight_files`, and for a file that
    cannot be read."""
    state: dict[str, Tensor] = {}
    for path in weight_files(folder):
        state |= read_weights(path) if path.suffix == ".safetensors" else _read_pickled(path)
    return state


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [index.parent / str(name) for name in sorted(set(names))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({error}); copy the folder again whole") from error


def _nothing_to_read(folder: Path) -> str:
    expected = f"{SAFE} or {PICKLED}, whole or with its index and all shards"
    for name, option in _OTHERS.items():
        if (folder / name).exists():
            return (
                f"only {name}, expected {expected}; convert it with transformers 4: "
                f"AutoModel....from_pretrained(folder, {option}=True).save_pretrained(folder)"
            )
    return f"no weights, expected {expected}; copy the folder again whole"


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save, which may hold nothing else."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise unreadable(path, error) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path}: not a dictionary of tensors; save the model's state_dict() alone")
    return found


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file of torch.save that cannot be loaded with `weights_only`."""
    if not isinstance(error, pickle.UnpicklingError):
        return CheckpointError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); copy it again whole")
    return CheckpointError(
        f"{path}: torch.load(weights_only=True) refuses it, since it is cut short or holds more than tensors; copy it "
        f"again, or, if you trust it, convert it: {_TO_SAFETENSORS} {path.parent}"
    )
