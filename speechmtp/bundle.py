"""A model folder: configuration, weights, tokenizer, normaliser, heads, card.

`config.yaml`, `model.safetensors`, `tokenizer.model`, `normalizer.json`, `card.md`, and a folder for each
head set, `heads/<name>/`, which carries the digest of the trunk it was trained on. A pretrained recogniser of
transformers is a folder as transformers has it, with or without a `config.yaml` of ours, its tokenizer
`tokenizer.json` or, packed, `tokenizer.json.xz`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from speechmtp.config import from_dict, read_yaml, write_yaml
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.folder import (
    encoder_digest,
    find_heads,
    load_heads,
    load_speller,
    own_heads,
    save_heads,
    save_speller,
    trunk_digest,
)
from speechmtp.models.ctc_speller import CtcSpeller
from speechmtp.models.speech_lm import ModelConfig, SpeechLM
from speechmtp.models.speech_seq2seq import Seq2SeqConfig, SpeechSeq2Seq, default_config, empty_model, family_of
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack, weights_digest
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.types import FbankConfig

FORMAT = 1
OTHER_FORMATS = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt"]  # of the same weights, in hub folders
EMBEDDED = ("default", "an4")  # models inside the package

Drafts = Literal["float32", "int8"]


@dataclass(frozen=True)
class BundleConfig:
    """`config.yaml` of a model folder."""

    format_version: int = FORMAT
    features: FbankConfig = field(default_factory=FbankConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    normalizer: str = "kaldi-basic"
    strategy: str = ""  # what decodes where nobody chose
    drafts: Drafts = "float32"  # how heads compute on a CPU


@dataclass(frozen=True)
class Seq2SeqBundleConfig:
    """`config.yaml` beside a pretrained encoder-decoder recogniser's own files."""

    format_version: int = FORMAT
    model: Seq2SeqConfig = field(default_factory=Seq2SeqConfig)
    normalizer: str = "whisper-en"
    strategy: str = ""  # what decodes where nobody chose
    drafts: Drafts = "float32"  # how heads compute on a CPU


@dataclass
class Bundle:
    """The parts of a model folder, loaded; `heads` by name, the default set first, and where all of it was read."""

    config: BundleConfig | Seq2SeqBundleConfig
    model: SpeechLM | SpeechSeq2Seq
    tokenizer: Tokenizer | HubTokenizer
    heads: dict[str, HeadSet] = field(default_factory=dict)
    card: str = ""
    name: str = ""
    folder: Path = field(default_factory=Path)
    head_folders: dict[str, Path] = field(default_factory=dict)
    trunk_sha256: str = ""  # of the trunk as loaded, known where heads were
    ctc: CtcSpeller | None = None  # draft head of a pretrained recogniser

    @property
    def speech_lm(self) -> tuple[BundleConfig, SpeechLM, Tokenizer]:
        """Configuration, model and tokenizer of a speech LLM of ours; a ConfigError for another kind of model."""
        parts = self.config, self.model, self.tokenizer
        if not (
            isinstance(parts[0], BundleConfig) and isinstance(parts[1], SpeechLM) and isinstance(parts[2], Tokenizer)
        ):
            raise ConfigError(f"{self.folder}: a pretrained encoder-decoder model, expected a speech LLM of ours")
        return parts  # type: ignore[return-value]

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
    write_yaml(folder / "config.yaml", bundle.config)
    save_file(_weights(bundle.model, storage), folder / "model.safetensors", {"format": "pt"})
    if isinstance(bundle.tokenizer, Tokenizer):
        bundle.tokenizer.save(folder / "tokenizer.model")
    else:
        bundle.tokenizer.save(folder, packed=storage != "float32")
    if isinstance(bundle.model, SpeechSeq2Seq):
        bundle.model.save_settings(folder)
    (folder / "normalizer.json").write_text(json.dumps({"id": bundle.config.normalizer}) + "\n")
    (folder / "card.md").write_text(bundle.card, encoding="utf-8")
    # Heads are bound to trunk and encoder as they will be loaded, after rounding.
    base, digest = bundle.name or folder.name, trunk_digest(bundle.model, storage)
    own: Storage = "int8" if storage == "uint8" else storage
    for name, heads in bundle.heads.items():
        save_heads(heads, folder / "heads" / name, base, digest, own)
    if bundle.ctc is not None:
        save_speller(bundle.ctc, folder / "ctc", base, encoder_digest(bundle.model, storage), own)


def _weights(model: SpeechLM | SpeechSeq2Seq, storage: Storage) -> dict[str, Tensor]:
    """What is stored of a model; a pretrained one's tensors have transformers' own names."""
    module = model.trunk.model if isinstance(model, SpeechSeq2Seq) else model
    return pack(module.state_dict(), storage)


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
    if not (folder / "config.yaml").exists():
        if family_of(folder) is not None:
            return _load_seq2seq(folder, Seq2SeqBundleConfig(model=default_config(folder)))
        raise CheckpointError(
            f"{folder}: not a model folder, config.yaml is missing; give the `model` folder of a training, or a folder "
            f"of Moonshine or Whisper as transformers has it"
        )
    raw = read_yaml(folder / "config.yaml")
    if str(raw.get("format_version")) != str(FORMAT):
        raise CheckpointError(f"{folder}/config.yaml: format {raw.get('format_version')}, this version reads {FORMAT}")
    if isinstance(raw.get("model"), dict) and raw["model"].get("kind") == "seq2seq":
        return _load_seq2seq(folder, from_dict(Seq2SeqBundleConfig, raw, str(folder / "config.yaml")))
    config = from_dict(BundleConfig, raw, str(folder / "config.yaml"))
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    model = SpeechLM(config.model, len(tokenizer), tokenizer.bos)
    load_state(model, unpack(read_weights(folder / "model.safetensors")), folder / "model.safetensors")
    return Bundle(config, model.eval(), tokenizer, {}, _card(folder), folder.name, folder)


def _card(folder: Path) -> str:
    card = folder / "card.md"
    return card.read_text(encoding="utf-8") if card.exists() else ""


def _load_seq2seq(folder: Path, config: Seq2SeqBundleConfig) -> Bundle:
    """A pretrained recogniser, in transformers' files or packed."""
    model = empty_model(config.model, folder)
    load_state(model.trunk.model, unpack(read_weights(folder / "model.safetensors")), folder / "model.safetensors")
    tokenizer = HubTokenizer.load(_tokenizer_file(folder), model.law.prompt[0], model.law.eos)
    if len(tokenizer) > model.trunk.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {model.trunk.vocab_size}; they must fit"
        )
    model.requires_grad_(False)
    return Bundle(config, model, tokenizer, {}, _card(folder), folder.name, folder)


def _tokenizer_file(folder: Path) -> Path:
    packed = folder / "tokenizer.json.xz"
    return packed if packed.exists() else folder / "tokenizer.json"


def load_draft_model(name: str, base: Bundle) -> SpeechLM:
    """A small speech LLM that drafts for `base`: its adapter and trunk behind the base's own encoder, whose output
    both can be given, on the base's device and in its dtype; another vocabulary or encoder is a CheckpointError."""
    draft = load_without_heads(name)
    source = base.name if base.name in EMBEDDED else base.folder
    (_, base_model, _), (_, draft_model, _) = base.speech_lm, draft.speech_lm
    if draft.tokenizer.sha256 != base.tokenizer.sha256:
        raise CheckpointError(
            f"draft model {name}: another vocabulary, {len(draft.tokenizer)} pieces (sha256 "
            f"{draft.tokenizer.sha256[:8]}), expected the {len(base.tokenizer)} pieces of {source} (sha256 "
            f"{base.tokenizer.sha256[:8]}); train it with the base's tokenizer"
        )
    own = base_model.encoder
    model = draft_model.to(device=own.mean.device, dtype=own.mean.dtype)
    if model.config.encoder != own.config or weights_digest(model.encoder) != weights_digest(own):
        raise CheckpointError(
            f"draft model {name}: its encoder is not that of {source}; train it with encoder_from={source}, stored "
            f"alike (--storage)"
        )
    model.encoder = own
    return model


def load_bundle(name: str, allow_stale_heads: bool = False, heads: Sequence[str] = (), ctc: str = "") -> Bundle:
    """A model folder, or an embedded model by name, on the CPU in float32.

    `heads` are names in its `heads/` or head folders anywhere, the first being the default; with none given it
    has all of its own. `ctc` is the folder of a CTC draft head (default: its own `ctc/`, where there is one).
    """
    bundle = load_without_heads(name)
    bundle.head_folders = find_heads(bundle.folder, heads) if heads else own_heads(bundle.folder)
    if bundle.head_folders:
        bundle.trunk_sha256 = trunk_digest(bundle.model)
    bundle.heads = {
        key: load_heads(path, bundle.model, allow_stale_heads, bundle.trunk_sha256)
        for key, path in bundle.head_folders.items()
    }
    speller = Path(ctc) if ctc else bundle.folder / "ctc"
    if ctc or (speller / "config.yaml").exists():
        bundle.ctc = load_speller(speller, bundle.model, allow_stale_heads)
    return bundle
