"""Training state on disk that a kill at any moment cannot tear.

A checkpoint is written into a temporary folder, flushed, marked `COMMITTED` with the digests of its
files, and renamed; loading takes the newest folder whose digests hold.
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
    """Store named tensors whole or not at all; tied ones are stored under every name."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary)
    temporary.replace(path)


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], optimiser: Any, state: Mapping[str, Any]
) -> Path:
    """Write `folder/ckpt-<step>` whole or not at all; `tensors` are named groups, a file each."""
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
    """Whether every file of the checkpoint is there with the digest it was written with."""
    try:
        digests = json.loads((checkpoint / "COMMITTED").read_text())
        return all(_digest(checkpoint / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first; temporary ones are not among them."""
    return sorted(p for p in folder.glob("ckpt-*") if p.name[5:].isdigit())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return next((path for path in reversed(checkpoints(folder)) if is_whole(path)), None)


def read_group(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """One group of tensors of a checkpoint."""
    try:
        return load_file(checkpoint / f"{name}.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: {name} cannot be read: {error}") from error


def prune(folder: Path, keep: int, step: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `step`, and what an interrupted save left behind.

    Later ones are torn, since the run went on from an earlier one; they must not count as kept.
    """
    for path in [p for p in checkpoints(folder) if int(p.name[5:]) <= step][:-keep]:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("ckpt-*.tmp-*"):
        if not path.name.endswith(f"-{os.getpid()}"):
            shutil.rmtree(path, ignore_errors=True)


def mean_of(groups: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several states; integer tensors are taken from the last."""
    last = groups[-1]
    return {
        k: torch.stack([g[k].double() for g in groups]).mean(0).to(v.dtype) if v.is_floating_point() else v
        for k, v in last.items()
    }
