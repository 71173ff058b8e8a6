"""A model folder: configuration, weights, and as far as there are any a tokenizer, a normaliser, heads, a card.

`config.yaml`, what the model's kind writes (`models/bases/`), `normalizer.json`, `card.md`, and a folder for each head
set, `heads/<name>/`, which carries the digest of the trunk it was trained on. A pretrained model of transformers is a
folder as transformers has it, with or without a `config.yaml` of ours.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast

import torch

from speechmtp.audio.features import FbankConfig
from speechmtp.codec.contract import Codec
from speechmtp.collector import paused_collector
from speechmtp.config import from_dict, read_yaml, to_dict, write_yaml
from speechmtp.errors import CheckpointError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.folder import (
    BaseDigests,
    encoder_digest,
    find_heads,
    load_ctc_head,
    load_heads,
    own_heads,
    save_ctc_head,
    save_heads,
    trunk_digest,
)
from speechmtp.models.bases.contract import EncoderDecoderModel, FeatureModel, SpeechModel, TextModel
from speechmtp.models.bases.table import claimed, expect, kind_in, load_model, settings_in, titles
from speechmtp.models.character_ctc import CharacterCtcHead
from speechmtp.models.storage import Storage, file_digest

FORMAT = 1
WEIGHTS = "model.safetensors"  # in folders of ours, and in most of transformers
OTHER_FORMATS = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt"]  # of the same weights, in hub folders
EMBEDDED = ("default", "an4")  # models inside the package

Drafts = Literal["float32", "int8"]


@dataclass(frozen=True)
class BundleConfig:
    """`config.yaml` of a model folder. `model` is the configuration of a kind (`models/bases/table.py`); `features` are
    those of models that read frames of ours; an empty `normalizer` leaves texts as they are."""

    format_version: int = FORMAT
    features: FbankConfig | None = None
    model: Any = None
    normalizer: str = ""
    strategy: str = ""  # what decodes where nobody chose
    drafts: Drafts = "float32"  # how heads compute on a CPU


@dataclass
class Bundle:
    """The parts of a model folder, loaded; `heads` by name, the default set first, and where all of it was read."""

    config: BundleConfig
    model: SpeechModel
    heads: dict[str, HeadSet] = field(default_factory=dict)
    card: str = ""
    name: str = ""
    folder: Path = field(default_factory=Path)
    head_folders: dict[str, Path] = field(default_factory=dict)
    trunk_sha256: str = ""  # of the trunk as loaded, known where heads were
    ctc: CharacterCtcHead | None = None  # draft head on the memories of a pretrained recogniser
    codec: Codec | None = None  # what makes sound of its tokens, where they are speech

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; None where its tokens are no text."""
        return self.model.tokenizer

    @property
    def normalizer(self) -> str:
        """The name of the normaliser that texts are scored with."""
        return self.config.normalizer or "none"

    @property
    def feature_model(self) -> FeatureModel:
        """The model, if it reads frames of ours; a CheckpointError for another."""
        expect(self.model, "features")
        return cast(FeatureModel, self.model)

    @property
    def encoder_decoder_model(self) -> EncoderDecoderModel:
        """The model, if audio is a memory beside its text; a CheckpointError for another."""
        expect(self.model, "encoder_outputs")
        return cast(EncoderDecoderModel, self.model)

    @property
    def text_model(self) -> TextModel:
        """The model, if it reads token ids alone; a CheckpointError for another."""
        expect(self.model, "texts")
        return cast(TextModel, self.model)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Bundle":
        """Move all weights."""
        self.model.to(device=device, dtype=dtype)
        for heads in self.heads.values():
            heads.to(device=device, dtype=dtype)
        if self.ctc is not None:
            self.ctc.to(device=device, dtype=dtype)
        return self


def save_bundle(bundle: Bundle, folder: Path, storage: Storage = "float32") -> None:
    """Write a model folder; heads beside weights of `uint8`, which rounds nothing, are stored as `int8`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", {k: v for k, v in to_dict(bundle.config).items() if v is not None})
    bundle.model.save(folder, storage)
    if bundle.config.normalizer:
        (folder / "normalizer.json").write_text(json.dumps({"id": bundle.config.normalizer}) + "\n")
    (folder / "card.md").write_text(bundle.card, encoding="utf-8")
    # Heads are bound to trunk and encoder as they will be loaded, after rounding.
    base, rounded = bundle.name or folder.name, bundle.model.stored_as(storage)
    digest = trunk_digest(bundle.model, rounded)
    own: Storage = "int8" if storage == "uint8" else storage
    written = file_digest(folder / WEIGHTS)
    for name, heads in bundle.heads.items():
        save_heads(heads, folder / "heads" / name, base, digest, own, weights_sha256=written)
    if bundle.ctc is not None:
        of_encoder = encoder_digest(bundle.model, rounded)
        save_ctc_head(bundle.ctc, folder / "ctc", base, of_encoder, own, weights_sha256=written)


def locate(name: str) -> Path:
    """The folder of a model: a path, a model inside the package, or a hub name such as `owner/model`."""
    if Path(name).is_dir():
        return Path(name)
    if name in EMBEDDED:
        folder = Path(str(resources.files("speechmtp"))) / "assets" / "models" / name
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
        return Path(snapshot_download(name, ignore_patterns=OTHER_FORMATS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name}: neither a folder nor to be had from the hub ({reason})") from error


def load_without_heads(name: str) -> Bundle:
    """A model folder, or an embedded model by name, on the CPU in float32, its heads left alone."""
    folder = locate(name)
    where = folder / "config.yaml"
    if where.exists():
        raw = read_yaml(where)
        if str(raw.get("format_version")) != str(FORMAT):
            raise CheckpointError(f"{where}: format {raw.get('format_version')}, this version reads {FORMAT}")
        found = raw.get("model")
        model: dict[str, Any] = found if isinstance(found, dict) else {}
        raw = {"normalizer": kind_in(model, str(where)).normalizer, **raw, "model": settings_in(model, str(where))}
        config = from_dict(BundleConfig, raw, str(where))
    else:
        kind = claimed(folder)
        if kind is None:
            raise CheckpointError(
                f"{folder}: not a model folder, config.yaml is missing; give the `model` folder of a training, or a "
                f"folder as transformers has it of {titles('encoder_outputs', 'prompts', 'texts')}"
            )
        config = BundleConfig(model=kind.default_settings(), normalizer=kind.normalizer)
    card = folder / "card.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    return Bundle(config, load_model(folder, config.model, config.features, name), {}, text, folder.name, folder)


def reads_text(name: str) -> bool:
    """Whether a name is that of a model that reads text alone, before it is loaded."""
    folder = locate(name)
    where = folder / "config.yaml"
    raw = read_yaml(where).get("model") if where.exists() else None
    kind = kind_in(raw if isinstance(raw, dict) else {}, str(where)) if where.exists() else claimed(folder)
    return kind is not None and kind.input_kind == "texts"


def load_draft_model(name: str, base: Bundle) -> SpeechModel:
    """A small model that drafts for `base`, on the base's device and in its dtype; one that cannot is a
    CheckpointError."""
    draft = load_without_heads(name).model
    base.model.check_draft(draft, base.name if base.name in EMBEDDED else base.folder)
    like = base.model.trunk.unembedding().weight
    return draft.to(device=like.device, dtype=like.dtype)


def load_bundle(name: str, allow_stale_heads: bool = False, heads: Sequence[str] = (), ctc: str = "") -> Bundle:
    """A model folder, or an embedded model by name, on the CPU in float32.

    `heads` are names in its `heads/` or head folders anywhere, the first being the default; with none given it
    has all of its own. `ctc` is the folder of a CTC draft head (default: its own `ctc/`, where there is one).
    """
    with paused_collector():
        bundle = load_without_heads(name)
    bundle.head_folders = find_heads(bundle.folder, heads) if heads else own_heads(bundle.folder)
    digests = BaseDigests(bundle.model, bundle.folder / WEIGHTS)
    bundle.heads = {
        key: load_heads(path, bundle.model, allow_stale_heads, digests) for key, path in bundle.head_folders.items()
    }
    if bundle.heads:
        bundle.trunk_sha256 = digests.trunk
    where = Path(ctc) if ctc else bundle.folder / "ctc"
    if ctc or (where / "config.yaml").exists():
        bundle.ctc = load_ctc_head(where, bundle.model, allow_stale_heads, digests)
    return bundle
