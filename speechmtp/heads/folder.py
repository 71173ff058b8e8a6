"""Folders of a model's draft heads: head sets, `heads/<name>/`, with the digest of the trunk that they were trained on,
and a CTC draft head, `ctc/`, with that of the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file

from speechmtp.config import load_config, write_yaml
from speechmtp.errors import CheckpointError, StaleHeadsError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.character_ctc import CharacterCtcConfig, CharacterCtcHead
from speechmtp.models.storage import (
    Storage,
    file_digest,
    load_state,
    pack,
    read_weights,
    unpack,
    weights_digest,
    without_random_weights,
)
from speechmtp.models.trunk import Trunk


@dataclass(frozen=True)
class HeadFolderConfig:
    """`heads/<name>/config.yaml`."""

    heads: HeadsConfig = field(default_factory=LatentHeadsConfig)
    base: str = ""
    trunk_sha256: str = ""  # `trunk_digest` of the base
    weights_sha256: str = ""  # `file_digest` of the base's model.safetensors, if known
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class CtcFolderConfig:
    """`ctc/config.yaml`."""

    ctc: CharacterCtcConfig = field(default_factory=CharacterCtcConfig)
    base: str = ""
    encoder_sha256: str = ""  # `encoder_digest` of the base
    weights_sha256: str = ""  # `file_digest` of the base's model.safetensors, if known


class HasTrunk(Protocol):
    """Any model with a trunk."""

    @property
    def trunk(self) -> Trunk:
        """The trunk that heads are trained on."""


def trunk_digest(model: HasTrunk, storage: Storage = "float32") -> str:
    """Return the `weights_digest` of the trunk."""
    return weights_digest(model.trunk, storage)


class BaseDigests:
    """The digests by which folders of draft heads identify their base, each computed at first use.

    A folder has the digest of the unpacked weights of the trunk or the encoder, and in most cases that of the file they
    were read from. If the file's digest is the same, the weights' digest is not computed.
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

    def is_trunk_of(self, config: HeadFolderConfig) -> bool:
        """Whether the heads of a folder were trained on this trunk."""
        if config.weights_sha256 and config.weights_sha256 == self.file:
            self.trunk = config.trunk_sha256  # the digest of the same weights
            return True
        return config.trunk_sha256 == self.trunk

    def is_encoder_of(self, config: CtcFolderConfig) -> bool:
        """Whether the CTC head of a folder was trained on this encoder."""
        if config.weights_sha256 and config.weights_sha256 == self.file:
            return True
        return config.encoder_sha256 == self.encoder


def save_heads(
    heads: HeadSet, folder: Path, base: str, digest: str, storage: Storage, card: str = "", weights_sha256: str = ""
) -> None:
    """Write a head folder. `digest` is that of the heads' trunk, `weights_sha256` that of the base's weights file, if
    known. CheckpointError for heads that draft in 8 bits, which have no float weights any more."""
    if heads.drafts_in_int8:
        raise CheckpointError(f"{folder}: heads that draft in 8 bits cannot be stored; load them with drafts='float32'")
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = heads.config
    write_yaml(folder / "config.yaml", HeadFolderConfig(config, base, digest, weights_sha256, heads.taps))
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
    config = load_config(HeadFolderConfig, folder / "config.yaml")
    if not (digests or BaseDigests(model)).is_trunk_of(config) and not allow_stale:
        base = config.base or "its name was not kept"
        raise StaleHeadsError(
            f"{folder}: these heads were trained on another trunk ({base}); train them again on this one"
        )
    with without_random_weights():
        heads = build_heads(config.heads, model.trunk.shape)
    if config.taps != heads.taps:
        raise CheckpointError(
            f"{folder}: these heads read the trunk's layers {list(config.taps)}, expected {list(heads.taps)}, "
            f"those of this trunk; train them again on it"
        )
    load_state(heads, unpack(read_weights(folder / "heads.safetensors")), folder)
    return heads.eval()


def start_heads(heads: HeadSet, folder: Path) -> None:
    """Load the weights of a head folder into `heads`, to train them further; CheckpointError if sizes differ."""
    load_config(HeadFolderConfig, folder / "config.yaml")  # one clear error for other folders
    load_state(heads, unpack(read_weights(folder / "heads.safetensors")), folder)


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
    """Return the number of parameters in a file of heads, without scales and integer tensors."""
    return sum(tensor.numel() for tensor in unpack(read_weights(path)).values() if tensor.is_floating_point())


def encoder_digest(model: SpeechModel, storage: Storage = "float32") -> str:
    """Return the `weights_digest` of a recogniser's encoder; CheckpointError for a model without a separate one."""
    return weights_digest(model.encoder_alone(), storage)


def save_ctc_head(
    ctc: CharacterCtcHead, folder: Path, base: str, digest: str, storage: Storage, card: str = "",
    weights_sha256: str = "",
) -> None:  # fmt: skip
    """Write the folder of a CTC draft head. `digest` is that of the head's encoder, `weights_sha256` that of the base's
    weights file, if known."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", CtcFolderConfig(ctc.config, base, digest, weights_sha256))
    save_file(pack(ctc.state_dict(), storage), folder / "ctc.safetensors", {"format": "pt"})
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")


def load_ctc_head(
    folder: Path, model: SpeechModel, allow_stale: bool = False, digests: BaseDigests | None = None
) -> CharacterCtcHead:
    """Load a CTC draft head. StaleHeadsError if it was trained on another encoder, unless `allow_stale`.

    `digests` are those of the model, if already made (default: they are computed).
    """
    config = load_config(CtcFolderConfig, folder / "config.yaml")
    if not (digests or BaseDigests(model)).is_encoder_of(config) and not allow_stale:
        base = config.base or "its name was not kept"
        raise StaleHeadsError(
            f"{folder}: this CTC head was trained on another encoder ({base}); train it again on this one"
        )
    with without_random_weights():
        ctc = CharacterCtcHead(config.ctc)
    load_state(ctc, unpack(read_weights(folder / "ctc.safetensors")), folder)
    return ctc.eval()
