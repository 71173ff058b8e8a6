"""Folders of a model's draft heads: head sets, `heads/<name>/`, with the digest of the trunk that they were trained on,
and a CTC draft head, `ctc/`, with that of the encoder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from speechmtp.config import load_config, write_yaml
from speechmtp.errors import CheckpointError, StaleHeadsError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.models.config_settings import computing_settings, first_difference
from speechmtp.models.files import check_files
from speechmtp.models.storage import (
    Storage,
    file_digest,
    load_state,
    pack,
    read_weights,
    refuse_misfits,
    unpack,
    weights_digest,
    without_random_weights,
)
from speechmtp.models.trunk import Trunk

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class HeadFolderConfig:
    """`heads/<name>/config.yaml`."""

    heads: HeadsConfig = field(default_factory=LatentHeadsConfig)
    base: str = ""
    trunk_sha256: str = ""  # `trunk_digest` of the base
    weights_sha256: str = ""  # `file_digest` of the base's model.safetensors, if known
    taps: tuple[int, ...] = ()
    trunk_settings: dict[str, str] = field(default_factory=dict)  # `computing_settings` of the base; empty: not known


@dataclass(frozen=True)
class CtcFolderConfig:
    """`ctc/config.yaml`."""

    ctc: CharacterCtcConfig = field(default_factory=CharacterCtcConfig)
    base: str = ""
    encoder_sha256: str = ""  # `encoder_digest` of the base
    weights_sha256: str = ""  # `file_digest` of the base's model.safetensors, if known
    encoder_settings: dict[str, str] = field(default_factory=dict)  # those of the base's encoder; empty: not known


class HasTrunk(Protocol):
    """Any model with a trunk."""

    @property
    def trunk(self) -> Trunk:
        """The trunk that heads are trained on."""


def trunk_digest(model: HasTrunk, storage: Storage = "float32") -> str:
    """Return the `weights_digest` of the trunk."""
    return weights_digest(model.trunk, storage)


def trunk_settings(model: HasTrunk) -> dict[str, str]:
    """Return the `computing_settings` of the model, which its trunk's weights do not tell."""
    return computing_settings(model.trunk.model.config)


def encoder_settings(model: HasTrunk) -> dict[str, str]:
    """Return the `computing_settings` of the model without those of its decoder."""
    return {name: value for name, value in trunk_settings(model).items() if not name.startswith("decoder")}


class BaseDigests:
    """The digests and settings by which folders of draft heads identify their base, each computed at first use.

    A folder has the digest of the unpacked weights of the trunk or the encoder, and in most cases that of the file they
    were read from. If the file's digest is the same, the weights' digest is not computed. Since the same weights
    compute something else under other settings, it has these too, unless it is of an earlier version.
    """

    def __init__(self, model: SpeechModel, weights: Path | None = None) -> None:
        """`weights` is the file that `model` was read from, unchanged since; None if there is no such file."""
        self._model, self._weights = model, weights

    @cached_property
    def file(self) -> str:
        """`file_digest` of the weights file; the empty string if there is none."""
        return "" if self._weights is None else file_digest(self._weights)

    @cached_property
    def trunk(self) -> str:
        """`trunk_digest` of the model."""
        return trunk_digest(self._model)

    @cached_property
    def encoder(self) -> str:
        """`encoder_digest` of the model."""
        return encoder_digest(self._model)

    def other_trunk(self, config: HeadFolderConfig) -> str:
        """Say how the trunk that the heads of a folder were trained on differs; empty if they were trained on this
        one."""
        if config.weights_sha256 and config.weights_sha256 == self.file:
            self.trunk = config.trunk_sha256  # the digest of the same weights
        elif config.trunk_sha256 != self.trunk:
            return f"another trunk ({config.base or 'its name was not kept'})"
        differing = first_difference(config.trunk_settings, trunk_settings(self._model))
        return f"a trunk with {differing}" if differing else ""

    def other_encoder(self, config: CtcFolderConfig) -> str:
        """Say how the encoder that the CTC head of a folder was trained on differs; empty if it was trained on this
        one."""
        known = config.weights_sha256 and config.weights_sha256 == self.file
        if not known and config.encoder_sha256 != self.encoder:
            return f"another encoder ({config.base or 'its name was not kept'})"
        differing = first_difference(config.encoder_settings, encoder_settings(self._model))
        return f"an encoder with {differing}" if differing else ""


def save_heads(
    heads: HeadSet, folder: Path, base: str, digest: str, storage: Storage, card: str = "", weights_sha256: str = "",
    settings: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a head folder. `digest` is that of the heads' trunk, `weights_sha256` that of the base's weights file, if
    known, `settings` are its `trunk_settings`. CheckpointError for heads that draft in 8 bits, which have no float
    weights any more."""
    if heads.drafts_in_int8:
        raise CheckpointError(f"{folder}: heads that draft in 8 bits cannot be stored; load them with drafts='float32'")
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = heads.config
    known = HeadFolderConfig(config, base, digest, weights_sha256, heads.taps, dict(settings or {}))
    write_yaml(folder / "config.yaml", known)
    save_file(pack(heads.state_dict(), storage), folder / "heads.safetensors", {"format": "pt"})
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")


def load_heads(
    folder: Path, model: SpeechModel, allow_stale: bool = False, digests: BaseDigests | None = None
) -> HeadSet:
    """Load a head set. StaleHeadsError if it was trained on another trunk, unless `allow_stale`; CheckpointError if it
    reads other layers or its tensors do not fit.

    `digests` are those of the model, if already made (default: they are computed).
    """
    check_files(folder)
    config = load_config(HeadFolderConfig, folder / "config.yaml")
    other = "" if allow_stale else (digests or BaseDigests(model)).other_trunk(config)
    if other:
        raise StaleHeadsError(f"{folder}: these heads were trained on {other}; train them again on this one")
    heads = _built(lambda: build_heads(config.heads, model.trunk.shape), folder)
    if config.taps != heads.taps:
        raise CheckpointError(
            f"{folder}: these heads read the trunk's layers {list(config.taps)}, expected {list(heads.taps)}, "
            f"those of this trunk; train them again on it"
        )
    _load_weights(heads, folder / "heads.safetensors")
    return heads.eval()


def start_heads(heads: HeadSet, folder: Path) -> None:
    """Load the weights of a head folder into `heads`, to train them further; CheckpointError if sizes differ."""
    load_config(HeadFolderConfig, folder / "config.yaml")  # one clear error for other folders
    _load_weights(heads, folder / "heads.safetensors")


def _built(make: Callable[[], Module], folder: Path) -> Module:
    """Return a new module with undefined weights; CheckpointError for settings that torch refuses."""
    try:
        with without_random_weights():
            return make()
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / 'config.yaml'}: {reason}; copy the folder again whole") from error


def _load_weights(module: nn.Module, path: Path) -> None:
    load_state(module, unpack(read_weights(path)), path, adopt=True)


def own_heads(folder: Path) -> dict[str, Path]:
    """Return the head folders inside a model folder, by name."""
    found = sorted((folder / "heads").glob("*"))
    return {path.name: path for path in found if (path / "config.yaml").exists()}


def find_heads(model: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """Return head folders by name, in the order of `wanted`: names in the model's `heads/`, or paths of head folders.

    CheckpointError for an unknown name, a folder without config.yaml, or two folders of one name.
    """
    own = own_heads(model)
    found: dict[str, Path] = {}
    for item in wanted:
        path = own.get(item, Path(item))
        if not path.is_dir():
            names = ", ".join(own) or "none"
            raise CheckpointError(
                f"heads={item!r}: neither a head set of {model} nor a folder; the model's own: {names}"
            )
        if not (path / "config.yaml").exists():
            raise CheckpointError(
                f"heads={item!r}: config.yaml is missing; give a head folder, with config.yaml and heads.safetensors"
            )
        name = item if item in own else path.resolve().name
        if name in found:
            raise CheckpointError(
                f"heads={item!r}: {path} has the name of {found[name]}; rename one of the two folders"
            )
        found[name] = path
    return found


def stored_parameters(path: Path) -> int:
    """Return the number of parameters in a file of heads, without scales and integer tensors. CheckpointError for 8-bit
    integers without their scales."""
    state = unpack(read_weights(path))
    eight_bits = [name for name, tensor in state.items() if tensor.dtype in (torch.int8, torch.uint8)]
    refuse_misfits(path, {"without their scales": eight_bits})
    return sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())


def encoder_digest(model: SpeechModel, storage: Storage = "float32") -> str:
    """Return the `weights_digest` of a recogniser's encoder; CheckpointError for a model without a separate one."""
    return weights_digest(model.encoder_alone(), storage)


def save_ctc_head(
    ctc: CharacterCtcHead, folder: Path, base: str, digest: str, storage: Storage, card: str = "",
    weights_sha256: str = "", settings: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write the folder of a CTC draft head. `digest` is that of the head's encoder, `weights_sha256` that of the base's
    weights file, if known, `settings` are its `encoder_settings`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", CtcFolderConfig(ctc.config, base, digest, weights_sha256, dict(settings or {})))
    save_file(pack(ctc.state_dict(), storage), folder / "ctc.safetensors", {"format": "pt"})
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")


def load_ctc_head(
    folder: Path, model: SpeechModel, allow_stale: bool = False, digests: BaseDigests | None = None
) -> CharacterCtcHead:
    """Load a CTC draft head. StaleHeadsError if it was trained on another encoder, unless `allow_stale`.

    `digests` are those of the model, if already made (default: they are computed).
    """
    check_files(folder)
    config = load_config(CtcFolderConfig, folder / "config.yaml")
    other = "" if allow_stale else (digests or BaseDigests(model)).other_encoder(config)
    if other:
        raise StaleHeadsError(f"{folder}: this CTC head was trained on {other}; train it again on this one")
    ctc = _built(lambda: CharacterCtcHead(config.ctc), folder)
    _load_weights(ctc, folder / "ctc.safetensors")
    return ctc.eval()
