"""A model folder: configuration, weights, tokenizer, normaliser, heads, card.

`config.yaml`, `model.safetensors`, `tokenizer.model`, `normalizer.json`, `card.md`, and a folder for each
head set, `heads/<name>/`, which carries the digest of the trunk it was trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speechmtp.config import from_dict, load_config, read_yaml, write_yaml
from speechmtp.errors import CheckpointError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.speech_lm import ModelConfig, SpeechLM
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.types import FbankConfig

FORMAT = 1
EMBEDDED = {"default": "an4", "an4": "an4"}  # names of the models inside the package
SCALE = ".scale"  # suffix of the float32 scales beside 8-bit integers
SMALLEST = 1024  # tensors with fewer numbers stay as they are

Storage = Literal["int8", "float32"]


@dataclass(frozen=True)
class BundleConfig:
    """`config.yaml` of a model folder."""

    format_version: int = FORMAT
    features: FbankConfig = field(default_factory=FbankConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    normalizer: str = "kaldi-basic"


@dataclass(frozen=True)
class HeadFolderConfig:
    """`heads/<name>/config.yaml`."""

    heads: HeadsConfig = field(default_factory=LatentHeadsConfig)
    base: str = ""
    trunk_sha256: str = ""
    taps: tuple[int, ...] = ()


@dataclass
class Bundle:
    """The parts of a model folder, loaded; `heads` by name."""

    config: BundleConfig
    model: SpeechLM
    tokenizer: Tokenizer
    heads: dict[str, HeadSet] = field(default_factory=dict)
    card: str = ""
    name: str = ""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Bundle":
        """Move all weights."""
        self.model.to(device=device, dtype=dtype)
        for heads in self.heads.values():
            heads.to(device=device, dtype=dtype)
        return self


def quantise(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit integers and float32 scales, one a row of the last axis: value = integer * scale."""
    flat = tensor.float()
    scale = flat.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return (flat / scale).round().to(torch.int8), scale.squeeze(-1)


def pack(state: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """Tensors as they are stored; tied ones once."""
    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        value = tensor.detach().cpu().contiguous()
        if storage == "int8" and value.is_floating_point() and value.dim() > 1 and value.numel() >= SMALLEST:
            # A two-dimensional convolution has one scale an output channel.
            integers, scale = quantise(value.flatten(1) if value.dim() == 4 else value)
            packed[name], packed[name + SCALE] = integers.reshape(value.shape), scale
        else:
            small = torch.float16 if storage == "int8" else torch.float32  # biases, norms, statistics
            packed[name] = value.to(small) if value.is_floating_point() else value
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors of what `pack` stored."""
    state = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE) and name[: -len(SCALE)] in packed:
            continue
        scale = packed.get(name + SCALE)
        if scale is not None:
            while scale.dim() < tensor.dim():
                scale = scale.unsqueeze(-1)
            tensor = tensor.float() * scale
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def load_state(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    """Load a state, tied names filled in; missing or unexpected tensors are errors."""
    own = module.state_dict()
    pointers: dict[int, list[str]] = {}
    for name, tensor in own.items():
        pointers.setdefault(tensor.data_ptr(), []).append(name)
    for names in pointers.values():
        known = next((n for n in names if n in state), None)
        if known is not None:
            state = dict.fromkeys(names, state[known]) | state
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    wrong = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or extra or wrong:
        named = [f"{len(k)} {what} (first: {k[0]})" for what, k in
                 (("missing", missing), ("unexpected", extra), ("of another shape", wrong)) if k]  # fmt: skip
        raise CheckpointError(f"{where}: tensors do not fit the configuration: {', '.join(named)}")
    module.load_state_dict(state)


def trunk_digest(model: SpeechLM, storage: Storage = "float32") -> str:
    """SHA-256 over the trunk's weights in float32, as they will be after storing them so."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unpack(pack(model.trunk.state_dict(), storage)).items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_bundle(bundle: Bundle, folder: Path, storage: Storage = "float32") -> None:
    """Write a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", bundle.config)
    save_file(pack(bundle.model.state_dict(), storage), folder / "model.safetensors", {"format": "pt"})
    bundle.tokenizer.save(folder / "tokenizer.model")
    (folder / "normalizer.json").write_text(json.dumps({"id": bundle.config.normalizer}) + "\n")
    (folder / "card.md").write_text(bundle.card, encoding="utf-8")
    # Heads are bound to the trunk as it will be loaded, after rounding.
    digest = trunk_digest(bundle.model, storage)
    for name, heads in bundle.heads.items():
        save_heads(heads, folder / "heads" / name, bundle.name or folder.name, digest, storage)


def save_heads(heads: HeadSet, folder: Path, base: str, digest: str, storage: Storage) -> None:
    """Write a head folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = heads.config
    write_yaml(folder / "config.yaml", HeadFolderConfig(config, base, digest, heads.taps))
    save_file(pack(heads.state_dict(), storage), folder / "heads.safetensors", {"format": "pt"})


def load_heads(folder: Path, model: SpeechLM, allow_stale: bool = False) -> HeadSet:
    """A head set trained on this very trunk; another trunk's is an error unless allowed."""
    config = load_config(HeadFolderConfig, folder / "config.yaml")
    if config.trunk_sha256 != trunk_digest(model) and not allow_stale:
        raise CheckpointError(f"{folder}: these heads were trained on another trunk ({config.base}); train them again")
    heads = build_heads(config.heads, model.trunk.width, model.trunk.vocab_size)
    load_state(heads, unpack(_read(folder / "heads.safetensors")), folder)
    return heads.eval()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def locate(name: str) -> Path:
    """The folder of a model: a path, a model inside the package, or a hub name such as `owner/model`."""
    if Path(name).is_dir():
        return Path(name)
    if name in EMBEDDED:
        folder = Path(str(resources.files("speechmtp"))) / "assets" / "models" / EMBEDDED[name]
        if folder.is_dir():
            return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise CheckpointError(
        f"{name}: no such model folder; give a folder, a hub name (owner/model) or one of {', '.join(EMBEDDED)}"
    )


def _download(name: str) -> Path:
    """The folder of a model on the Hugging Face hub, from its local cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name}: neither a folder nor to be had from the hub ({reason})") from error


def load_bundle(name: str, allow_stale_heads: bool = False) -> Bundle:
    """A model folder, or an embedded model by name, on the CPU in float32."""
    folder = locate(name)
    if not (folder / "config.yaml").exists():
        raise CheckpointError(
            f"{folder}: not a model folder, config.yaml is missing; give the `model` folder of a training"
        )
    raw = read_yaml(folder / "config.yaml")
    if str(raw.get("format_version")) != str(FORMAT):
        raise CheckpointError(f"{folder}/config.yaml: format {raw.get('format_version')}, this version reads {FORMAT}")
    config = from_dict(BundleConfig, raw, str(folder / "config.yaml"))
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    model = SpeechLM(config.model, len(tokenizer), tokenizer.bos)
    load_state(model, unpack(_read(folder / "model.safetensors")), folder / "model.safetensors")
    model.eval()
    heads = {
        path.name: load_heads(path, model, allow_stale_heads)
        for path in sorted((folder / "heads").glob("*"))
        if (path / "config.yaml").exists()
    }
    card = folder / "card.md"
    return Bundle(
        config, model, tokenizer, heads, card.read_text(encoding="utf-8") if card.exists() else "", folder.name
    )
