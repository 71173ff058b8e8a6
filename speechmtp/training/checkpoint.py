"""Atomic training checkpoints, which stay valid if the process is killed at any moment.

A checkpoint is written to a temporary folder, flushed to disk, completed by a file `COMMITTED` with the SHA-256 digests
of its files, and renamed. Loading takes the newest folder whose digests match.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmtp.errors import CheckpointError


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_group(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors to a safetensors file atomically; tied tensors are stored under each of their names."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], optimiser: Any, state: Mapping[str, Any]
) -> Path:
    """Write `folder/ckpt-<step>` atomically and return its path. `tensors` are named groups, one file per group."""
    final = folder / f"ckpt-{step:08d}"
    temporary = folder / f"{final.name}.tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, group in tensors.items():
        write_group(temporary / f"{name}.safetensors", group)
    torch.save(optimiser, temporary / "optim.pt")
    (temporary / "state.json").write_text(json.dumps(dict(state) | {"step": step}, indent=1))
    digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
    (temporary / "COMMITTED").write_text(json.dumps(digests, indent=1))
    for path in temporary.iterdir():
        _flush(path)
    _flush(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _flush(folder)
    return final


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of the checkpoint exists and matches its digest in `COMMITTED`."""
    try:
        digests = json.loads((checkpoint / "COMMITTED").read_text())
        return all(_digest(checkpoint / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first, without temporary ones."""
    return sorted(p for p in folder.glob("ckpt-*") if p.name[5:].isdigit())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in a folder, or None."""
    return next((path for path in reversed(checkpoints(folder)) if is_whole(path)), None)


def read_group(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """Read one group of tensors of a checkpoint. CheckpointError if its file is missing or invalid."""
    try:
        return load_file(checkpoint / f"{name}.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: {name} cannot be read: {error}") from error


def prune(folder: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, and temporary folders of interrupted saves.

    Checkpoints after `step` are incomplete, since the run was resumed from an earlier one, so they are not counted.
    """
    for path in [p for p in checkpoints(folder) if int(p.name[5:]) <= step][:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("ckpt-*.tmp-*"):
        if not path.name.endswith(f"-{os.getpid()}"):
            shutil.rmtree(path, ignore_errors=True)


def mean_of(groups: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several state dicts; tensors that are not floating-point are taken from the last one."""
    last = groups[-1]
    return {
        k: torch.stack([g[k].double() for g in groups]).mean(0).to(v.dtype) if v.is_floating_point() else v
        for k, v in last.items()
    }
