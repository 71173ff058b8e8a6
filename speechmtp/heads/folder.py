"""Folders of what drafts beside a model: head sets, `heads/<name>/`, which carry the digest of the trunk that they were
trained on, and a CTC draft head, `ctc/`, which carries that of the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file

from speechmtp.config import load_config, write_yaml
from speechmtp.errors import CheckpointError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.ctc_speller import CtcSpeller, CtcSpellerConfig
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack, weights_digest
from speechmtp.models.trunk import Trunk


@dataclass(frozen=True)
class HeadFolderConfig:
    """`heads/<name>/config.yaml`."""

    heads: HeadsConfig = field(default_factory=LatentHeadsConfig)
    base: str = ""
    trunk_sha256: str = ""
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpellerFolderConfig:
    """`ctc/config.yaml`."""

    ctc: CtcSpellerConfig = field(default_factory=CtcSpellerConfig)
    base: str = ""
    encoder_sha256: str = ""


class HasTrunk(Protocol):
    """A speech LLM of ours, or a causal LM of transformers."""

    @property
    def trunk(self) -> Trunk:
        """What heads stand on."""


def trunk_digest(model: HasTrunk, storage: Storage = "float32") -> str:
    """`weights_digest` of the trunk."""
    return weights_digest(model.trunk, storage)


def save_heads(heads: HeadSet, folder: Path, base: str, digest: str, storage: Storage, card: str = "") -> None:
    """Write a head folder; `digest` is that of the trunk that the heads belong to. CheckpointError for heads that
    draft in 8 bits, whose weights are no longer there."""
    if heads.drafts_in_int8:
        raise CheckpointError(f"{folder}: heads that draft in 8 bits cannot be stored; load them with drafts='float32'")
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = heads.config
    write_yaml(folder / "config.yaml", HeadFolderConfig(config, base, digest, heads.taps))
    save_file(pack(heads.state_dict(), storage), folder / "heads.safetensors", {"format": "pt"})
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")


def load_heads(folder: Path, model: HasTrunk, allow_stale: bool = False, digest: str = "") -> HeadSet:
    """A head set trained on this very trunk; another trunk's is an error unless allowed.

    `digest` is `trunk_digest(model)` where it is known already.
    """
    config = load_config(HeadFolderConfig, folder / "config.yaml")
    if config.trunk_sha256 != (digest or trunk_digest(model)) and not allow_stale:
        base = config.base or "its name was not kept"
        raise CheckpointError(
            f"{folder}: these heads were trained on another trunk ({base}); train them again on this one, "
            f"or let them through with --allow-stale-heads"
        )
    heads = build_heads(config.heads, model.trunk.shape)
    if config.taps != heads.taps:
        raise CheckpointError(
            f"{folder}: these heads read the trunk's layers {list(config.taps)}, expected {list(heads.taps)}, "
            f"those of this trunk; train them again on it"
        )
    load_state(heads, unpack(read_weights(folder / "heads.safetensors")), folder)
    return heads.eval()


def start_heads(heads: HeadSet, folder: Path) -> None:
    """Give heads the weights of a head folder, to be trained further; sizes that differ are a CheckpointError."""
    load_config(HeadFolderConfig, folder / "config.yaml")  # a folder that is none has one clear line
    load_state(heads, unpack(read_weights(folder / "heads.safetensors")), folder)


def own_heads(folder: Path) -> dict[str, Path]:
    """Head folders inside a model folder, by name."""
    found = sorted((folder / "heads").glob("*"))
    return {path.name: path for path in found if (path / "config.yaml").exists()}


def find_heads(model: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """Head folders by name, in the order wanted: names in the model's `heads/`, or any head folders by path.

    An unknown name, a folder without config.yaml and a name given twice are CheckpointErrors.
    """
    own = own_heads(model)
    found: dict[str, Path] = {}
    for item in wanted:
        path = own.get(item, Path(item))
        if not path.is_dir():
            names = ", ".join(own) or "none"
            raise CheckpointError(
                f"--heads {item}: neither a head set of {model} nor a folder; the model's own: {names}"
            )
        if not (path / "config.yaml").exists():
            raise CheckpointError(
                f"--heads {item}: config.yaml is missing; give a head folder, with config.yaml and heads.safetensors"
            )
        name = item if item in own else path.resolve().name
        if name in found:
            raise CheckpointError(
                f"--heads {item}: {path} has the name of {found[name]}; rename one of the two folders"
            )
        found[name] = path
    return found


def stored_parameters(path: Path) -> int:
    """Numbers in a file of heads, scales and whole-number tables left out."""
    return sum(tensor.numel() for tensor in unpack(read_weights(path)).values() if tensor.is_floating_point())


def encoder_digest(model: SpeechModel, storage: Storage = "float32") -> str:
    """`weights_digest` of a pretrained recogniser's encoder; a CheckpointError for a model that has none apart."""
    return weights_digest(model.encoder_alone(), storage)


def save_speller(speller: CtcSpeller, folder: Path, base: str, digest: str, storage: Storage, card: str = "") -> None:
    """Write the folder of a CTC draft head; `digest` is that of the encoder that it belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", SpellerFolderConfig(speller.config, base, digest))
    save_file(pack(speller.state_dict(), storage), folder / "ctc.safetensors", {"format": "pt"})
    if card:
        (folder / "card.md").write_text(card, encoding="utf-8")


def load_speller(folder: Path, model: SpeechModel, allow_stale: bool = False) -> CtcSpeller:
    """A CTC draft head trained on this very encoder; another encoder's is an error unless allowed."""
    config = load_config(SpellerFolderConfig, folder / "config.yaml")
    if config.encoder_sha256 != encoder_digest(model) and not allow_stale:
        raise CheckpointError(
            f"{folder}: this CTC head was trained on another encoder ({config.base or 'its name was not kept'}); train "
            f"it again on this one, or let it through with --allow-stale-heads"
        )
    speller = CtcSpeller(config.ctc)
    load_state(speller, unpack(read_weights(folder / "ctc.safetensors")), folder)
    return speller.eval()
