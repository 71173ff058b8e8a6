"""The one table of kinds of models: who reads which folder, and how they are called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechmtp.audio.features import FbankConfig
from speechmtp.config import from_dict
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.models.bases.causal_lm import CausalLM
from speechmtp.models.bases.contract import FeatureModel, InputKind, SpeechModel
from speechmtp.models.bases.folders import model_type
from speechmtp.models.bases.moonshine import Moonshine
from speechmtp.models.bases.qwen2_audio import Qwen2Audio
from speechmtp.models.bases.speech_lm import SpeechLM, SpeechLMSettings
from speechmtp.models.bases.whisper import Whisper
from speechmtp.models.encoder_lm import ModelConfig
from speechmtp.text.tokenizer import Tokenizer

KINDS: Mapping[str, type[SpeechModel]] = {
    one.kind: one
    for one in (
        SpeechLM,
        Moonshine,
        Whisper,
        Qwen2Audio,
        CausalLM,
    )
}
TRAINED, OTHERS = SpeechLM, CausalLM  # what config.yaml means without a kind, and a folder that nobody else claims


def claimed(folder: Path) -> type[SpeechModel] | None:
    """The kind of a folder of transformers; None for what is none."""
    found = model_type(folder)
    if found is None:
        return None
    return next((kind for kind in KINDS.values() if found in kind.model_types), OTHERS)


def kind_in(model: Mapping[str, Any], where: str) -> type[SpeechModel]:
    """The kind that `model` of a config.yaml names; a ConfigError for another."""
    name = model.get("kind", TRAINED.kind)
    if name == "seq2seq":
        family = model.get("family")
        old = "`kind: seq2seq`" if family is None else f"`kind: seq2seq` and `family: {family}`"
        raise ConfigError(
            f"{where}: model: written by an earlier version; replace {old} by `kind: {family or Moonshine.kind}`"
        )
    if name not in KINDS:
        raise ConfigError(f"{where}: model.kind: {name!r} is not one of {', '.join(KINDS)}")
    return KINDS[str(name)]


def settings_in(model: Mapping[str, Any], where: str) -> Any:
    """The configuration of `model` in a config.yaml."""
    return from_dict(kind_in(model, where).settings, model, f"{where}: model")


def load_model(folder: Path, config: Any, features: FbankConfig | None, name: str) -> SpeechModel:
    """The model of a folder; errors call it `name`."""
    model = KINDS[config.kind].load(folder, config, features)
    model.name = name
    return model


def new_model(sizes: ModelConfig, tokenizer: Tokenizer, features: FbankConfig) -> FeatureModel:
    """A model of random weights, of the kind that is trained here."""
    return TRAINED(SpeechLMSettings.of(sizes), tokenizer, features)


def titles(*kinds: InputKind) -> str:
    """What people call the models that read so: `Moonshine or Whisper`."""
    return " or ".join(kind.title for kind in KINDS.values() if kind.input_kind in kinds)


def expect(model: SpeechModel, *kinds: InputKind) -> None:
    """A CheckpointError for a model that reads something else."""
    if model.input_kind not in kinds:
        raise CheckpointError(f"{model.name}: {model.title}, expected {titles(*kinds)}")
