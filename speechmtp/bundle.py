"""A model folder: configuration, weights, and optionally a tokenizer, a normaliser, heads and a card.

It holds `config.yaml`, the files that the model's kind writes (`models/bases/`), `normalizer.json`, `card.md`, and for
each head set a folder `heads/<name>/` with the digest of the trunk it was trained on. A pretrained transformers model
is a folder in transformers' format, with or without our `config.yaml`.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from speechmtp.audio.features import FbankConfig
from speechmtp.codec.contract import Codec
from speechmtp.codec.folder import load_codec
from speechmtp.collector import paused_collector
from speechmtp.config import from_dict, read_yaml, to_dict, write_yaml
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.errors import CheckpointError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.folder import (
    BaseDigests,
    encoder_digest,
    encoder_settings,
    find_heads,
    load_ctc_head,
    load_heads,
    own_heads,
    save_ctc_head,
    save_heads,
    trunk_digest,
    trunk_settings,
)
from speechmtp.models.bases.adapters import adapter_base, merge_adapter
from speechmtp.models.bases.contract import EncoderDecoderModel, FeatureModel, SpeechModel, TextModel, UnitModel
from speechmtp.models.bases.table import claimed, expect, kind_in, load_model, settings_in, titles
from speechmtp.models.character_ctc import CharacterCtcHead
from speechmtp.models.locate import EMBEDDED, locate
from speechmtp.models.storage import Storage, file_digest

FORMAT = 1
WEIGHTS = "model.safetensors"  # in our folders, and in most of transformers'

Drafts = Literal["float32", "int8"]
Kind = Literal["recogniser", "voice"]
KINDS: dict[Kind, tuple[str, str]] = {  # what a model folder is, and what loads it
    "recogniser": ("a recogniser", "`speechmtp.load` or `speechmtp transcribe`"),
    "voice": ("a voice", "`speechmtp.load_voice` or `speechmtp speak`"),
}


@dataclass(frozen=True)
class BundleConfig:
    """`config.yaml` of a model folder. `model` is the configuration of a kind (`models/bases/table.py`); `features` is
    for models that read our filterbank frames; an empty `normalizer` leaves texts unchanged. `kind` is what the model
    does (text models count as recognisers); `sampling` is how tokens are drawn if nothing else is asked for."""

    format_version: int = FORMAT
    kind: Kind = "recogniser"
    features: FbankConfig | None = None
    model: Any = None
    normalizer: str = ""
    strategy: str = ""  # the default decoding strategy
    drafts: Drafts = "float32"  # how heads compute on a CPU
    sampling: SamplingConfig | None = None


@dataclass
class Bundle:
    """The loaded parts of a model folder and where they were read; `heads` by name, the default set first."""

    config: BundleConfig
    model: SpeechModel
    heads: dict[str, HeadSet] = field(default_factory=dict)
    card: str = ""
    name: str = ""
    folder: Path = field(default_factory=Path)
    head_folders: dict[str, Path] = field(default_factory=dict)
    trunk_sha256: str = ""  # digest of the trunk as loaded, set if heads were loaded
    ctc: CharacterCtcHead | None = None  # draft head on the encoder outputs of a pretrained recogniser
    codec: Codec | None = None  # turns its tokens into audio, if they are speech tokens
    codec_folder: Path | None = None  # where the codec was read

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; None if its tokens are not text."""
        return self.model.tokenizer

    @property
    def normalizer(self) -> str:
        """The name of the normaliser for scoring texts, `none` if there is none."""
        return self.config.normalizer or "none"

    @property
    def feature_model(self) -> FeatureModel:
        """The model, if it reads our filterbank frames; CheckpointError otherwise."""
        expect(self.model, "features")
        return cast(FeatureModel, self.model)

    @property
    def encoder_decoder_model(self) -> EncoderDecoderModel:
        """The model, if it is an encoder-decoder; CheckpointError otherwise."""
        expect(self.model, "encoder_outputs")
        return cast(EncoderDecoderModel, self.model)

    @property
    def text_model(self) -> TextModel:
        """The model, if it reads only token ids; CheckpointError otherwise."""
        expect(self.model, "texts")
        return cast(TextModel, self.model)

    @property
    def unit_model(self) -> UnitModel:
        """The model, if it turns units into speech tokens; CheckpointError otherwise."""
        expect(self.model, "units")
        return cast(UnitModel, self.model)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Bundle":
        """Move all weights to a device and dtype; return this bundle."""
        self.model.to(device=device, dtype=dtype)
        for heads in self.heads.values():
            heads.to(device=device, dtype=dtype)
        if self.ctc is not None:
            self.ctc.to(device=device, dtype=dtype)
        return self


def save_bundle(bundle: Bundle, folder: Path, storage: Storage = "float32") -> None:
    """Write a model folder. With `uint8`, which rounds no weights, heads are stored as `int8`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", {k: v for k, v in to_dict(bundle.config).items() if v is not None})
    bundle.model.save(folder, storage)
    if bundle.config.normalizer:
        (folder / "normalizer.json").write_text(json.dumps({"id": bundle.config.normalizer}) + "\n")
    (folder / "card.md").write_text(bundle.card, encoding="utf-8")
    # Heads carry the digests of trunk and encoder as they will be loaded, after rounding.
    base, rounded = bundle.name or folder.name, bundle.model.stored_as(storage)
    digest = trunk_digest(bundle.model, rounded)
    own: Storage = "int8" if storage == "uint8" else storage
    written = file_digest(folder / WEIGHTS)
    for name, heads in bundle.heads.items():
        settings = trunk_settings(bundle.model)
        save_heads(heads, folder / "heads" / name, base, digest, own, weights_sha256=written, settings=settings)
    if bundle.codec_folder is not None:  # as it is, with its card and notice
        shutil.copytree(bundle.codec_folder, folder / "codec", dirs_exist_ok=True)
    if bundle.ctc is not None:
        of_encoder = encoder_digest(bundle.model, rounded)
        settings = encoder_settings(bundle.model)
        save_ctc_head(bundle.ctc, folder / "ctc", base, of_encoder, own, weights_sha256=written, settings=settings)


def load_without_heads(name: str, kind: Kind | None = None) -> Bundle:
    """Load a model as `load_bundle` does, but without heads; a PEFT adapter is merged into its base. CheckpointError if
    it is no model folder, or one of another kind than `kind`."""
    folder = locate(name)
    base = adapter_base(folder)
    if base is not None:
        bundle = load_without_heads(str(base), kind)
        merge_adapter(bundle.model, folder)
        bundle.model.name = name
        return replace(bundle, name=folder.name, folder=folder)
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
        model_kind = claimed(folder)
        if model_kind is None:
            raise CheckpointError(
                f"{folder}: not a model folder, it has {_content(folder)} but neither config.yaml nor config.json; "
                f"give the `model` folder of a training, or a folder as transformers has it of "
                f"{titles('encoder_outputs', 'prompts', 'texts')}"
            )
        config = BundleConfig(model=model_kind.default_settings(), normalizer=model_kind.normalizer)
    if kind is not None and config.kind != kind:
        found, use = KINDS[config.kind]
        raise CheckpointError(f"{name}: {found}, expected {KINDS[kind][0]}; use {use}")
    card = folder / "card.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    return Bundle(config, load_model(folder, config.model, config.features, name), {}, text, folder.name, folder)


def _content(folder: Path) -> str:
    """The first names in a folder, for a message."""
    names = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "no files"


def reads_text(name: str) -> bool:
    """Whether the named model reads only text, found without loading it."""
    folder = locate(name)
    base = adapter_base(folder)
    if base is not None:
        return reads_text(str(base))
    where = folder / "config.yaml"
    raw = read_yaml(where).get("model") if where.exists() else None
    kind = kind_in(raw if isinstance(raw, dict) else {}, str(where)) if where.exists() else claimed(folder)
    return kind is not None and kind.input_kind == "texts"


def load_draft_model(name: str, base: Bundle) -> SpeechModel:
    """Load a small model that drafts for `base`, on the base's device and in its dtype; CheckpointError if it cannot
    draft for it."""
    draft = load_without_heads(name).model
    base.model.check_draft(draft, base.name if base.name in EMBEDDED else base.folder)
    like = base.model.trunk.unembedding().weight
    return draft.to(device=like.device, dtype=like.dtype)


def load_bundle(
    name: str, allow_stale_heads: bool = False, heads: Sequence[str] = (), ctc: str = "", kind: Kind | None = None
) -> Bundle:
    """Load a model on the CPU in float32; `name` is that of a folder, an embedded model or a hub model.

    `heads` are names in its `heads/` or paths of head folders, the first being the default; if none are given, all of
    its own are loaded. `ctc` is the folder of a CTC draft head (default: its own `ctc/`, if there is one). Heads that
    were trained on another trunk or encoder are a StaleHeadsError unless `allow_stale_heads`. CheckpointError for a
    model of another kind than `kind`, if that is given.
    """
    with paused_collector():
        bundle = load_without_heads(name, kind)
    bundle.head_folders = find_heads(bundle.folder, heads) if heads else own_heads(bundle.folder)
    digests = BaseDigests(bundle.model, bundle.folder / WEIGHTS)
    bundle.heads = {
        key: load_heads(path, bundle.model, allow_stale_heads, digests) for key, path in bundle.head_folders.items()
    }
    if bundle.heads:
        bundle.trunk_sha256 = digests.trunk
    if (bundle.folder / "codec").is_dir():
        bundle.codec_folder = bundle.folder / "codec"
        bundle.codec = load_codec(bundle.codec_folder)
    where = Path(ctc) if ctc else bundle.folder / "ctc"
    if ctc or (where / "config.yaml").exists():
        bundle.ctc = load_ctc_head(where, bundle.model, allow_stale_heads, digests)
    return bundle
