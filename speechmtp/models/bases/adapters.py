"""Folders of PEFT adapters: the local folder of their base, and the base with an adapter merged into it."""

import json
import warnings
from pathlib import Path
from typing import Any

from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.bases.weights import has_weights
from speechmtp.models.quiet import quiet_transformers

CONFIG = "adapter_config.json"


def adapter_base(folder: Path) -> Path | None:
    """Return the folder of the base of a PEFT adapter, whose configuration names it by a path (absolute, or relative to
    the adapter, its parent or the current folder); None if there is no adapter. CheckpointError if the base is not on
    this machine, or if the folder has weights of its own too."""
    path = folder / CONFIG
    if not path.exists():
        return None
    if has_weights(folder):
        raise CheckpointError(f"{folder}: a PEFT adapter beside whole weights; remove {CONFIG}, or the weights")
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an adapter's configuration ({error!r}); copy the folder again") from error
    found = next((one / name for one in (folder, folder.parent, Path()) if name and (one / name).is_dir()), None)
    if found is None or found.resolve() == folder.resolve():
        raise CheckpointError(
            f"{folder}: a PEFT adapter of {name!r}, whose folder is not on this machine; download that model and put "
            f"its path as base_model_name_or_path into {path}"
        )
    return found


def merge_adapter(model: SpeechModel, folder: Path) -> None:
    """Merge the adapter of a folder into the weights of its base. CheckpointError if it does not fit the base or cannot
    be merged, ConfigError if peft is not installed."""
    try:
        from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
    except ImportError as error:
        raise ConfigError(f"{folder}: a PEFT adapter, which needs peft; pip install 'speechmtp[train]'") from error
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")  # peft warns of missing tensors, which are errors here
            wrapped: Any = PeftModel.from_pretrained(model.trunk.model, str(folder))
            own, stored = (
                set(one) for one in (get_peft_model_state_dict(wrapped), load_peft_weights(str(folder), "cpu"))
            )
            wrapped.merge_and_unload()
    except Exception as error:  # peft has errors of many kinds
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder}: its adapter does not fit {model.name}, or cannot be merged ({reason}); check "
            f"base_model_name_or_path in {CONFIG}"
        ) from error
    if own != stored:
        missing, extra = sorted(own - stored), sorted(stored - own)
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of the adapter are missing and {len(extra)} unexpected (first: "
            f"{(missing + extra)[0]}); check base_model_name_or_path in {CONFIG}"
        )
    model.requires_grad_(False)
    model.eval()
