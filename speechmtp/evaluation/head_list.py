"""List the head sets of a model from their files alone, so that heads of another trunk are listed too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechmtp.bundle import WEIGHTS, load_without_heads
from speechmtp.config import load_config
from speechmtp.heads.folder import BaseDigests, HeadFolderConfig, find_heads, own_heads, stored_parameters
from speechmtp.models.files import check_files
from speechmtp.scoring.tables import Column

HEAD_COLUMNS = [
    *map(Column, ("name", "family", "depth", "taps", "parameters", "shortlist", "size_on_disk", "base")),
    Column("fits", "trained on this trunk"),
]


def list_heads(model: str, heads: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for every head set of a model, then for the other head folders in `heads`, with the keys of `HEAD_COLUMNS`.

    `fits` says whether the heads were trained on the model's trunk. CheckpointError for a folder that is not a head
    set.
    """
    bundle = load_without_heads(model)
    folders = own_heads(bundle.folder)
    others = [path for path in find_heads(bundle.folder, heads).values() if path not in folders.values()]
    if not folders and not others:
        return []
    digests = BaseDigests(bundle.model, bundle.folder / WEIGHTS)
    rows = [_row(path, name, digests) for name, path in folders.items()]
    return rows + [_row(path, str(path), digests) for path in others]


def _row(folder: Path, name: str, digests: BaseDigests) -> dict[str, Any]:
    """The row of one head folder."""
    check_files(folder)
    config = load_config(HeadFolderConfig, folder / "config.yaml")
    heads, weights = config.heads, folder / "heads.safetensors"
    parameters = stored_parameters(weights)
    size = sum(path.stat().st_size for path in (weights, folder / "config.yaml"))
    return {
        "name": name, "family": heads.kind, "depth": heads.depth, "taps": list(config.taps), "parameters": parameters,
        "shortlist": heads.shortlist or None, "size_on_disk": f"{size / 1e6:.2f} MB", "base": config.base or None,
        "fits": not digests.other_trunk(config),
    }  # fmt: skip
