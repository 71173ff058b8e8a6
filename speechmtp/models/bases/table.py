"""The table of model kinds: which kind loads a folder, and the names of the kinds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechmtp.audio.features import FbankConfig
from speechmtp.config import from_dict
from speechmtp.errors import CheckpointError, ConfigError, SpeechMTPError
from speechmtp.models.bases.causal_lm import CausalLM
from speechmtp.models.bases.contract import FeatureModel, InputKind, SpeechModel, UnitModel
from speechmtp.models.bases.folders import check_sizes, model_type
from speechmtp.models.bases.moonshine import Moonshine
from speechmtp.models.bases.qwen2_audio import Qwen2Audio
from speechmtp.models.bases.speech_lm import SpeechLM, SpeechLMSettings
from speechmtp.models.bases.unit_lm import UnitLM
from speechmtp.models.bases.unit_settings import UnitModelSettings
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
        UnitLM,
    )
}
TRAINED, OTHERS = SpeechLM, CausalLM  # defaults: config.yaml without a kind, transformers folders of no other kind


def claimed(folder: Path) -> type[SpeechModel] | None:
    """Return the kind of a transformers folder; None if it has no config.json."""
    found = model_type(folder)
    if found is None:
        return None
    return next((kind for kind in KINDS.values() if found in kind.model_types), OTHERS)


def kind_in(model: Mapping[str, Any], where: str) -> type[SpeechModel]:
    """Return the kind that `model` of a config.yaml names; ConfigError for an unknown one."""
    name = model.get("kind", TRAINED.kind)
    if name == "seq2seq":
        family = model.get("family")
        old = "`kind: seq2seq`" if family is None else f"`kind: seq2seq` and `family: {family}`"
        raise ConfigError(
            f"{where}: model: written by an earlier version; replace {old} by `kind: {family or Moonshine.kind}`"
        )
    if str(name) not in KINDS:
        raise ConfigError(f"{where}: model.kind: {name!r} is not one of {', '.join(KINDS)}")
    return KINDS[str(name)]


def settings_in(model: Mapping[str, Any], where: str) -> Any:
    """Return the configuration of `model` in a config.yaml."""
    return from_dict(kind_in(model, where).settings, model, f"{where}: model")


def load_model(folder: Path, config: Any, features: FbankConfig | None, name: str) -> SpeechModel:
    """Load the model of a folder; `name` is its name in error messages. CheckpointError for whatever libraries raise
    on files and settings that they do not expect."""
    kind = KINDS[config.kind]
    try:
        check_sizes(folder)
        model = kind.load(folder, config, features)
    except SpeechMTPError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(
            f"{folder}: cannot be loaded as {kind.title}: {reason}; a file or setting in it is not as it was written, "
            f"copy the folder again whole"
        ) from error
    model.name = name
    return model


def new_model(sizes: ModelConfig, tokenizer: Tokenizer, features: FbankConfig) -> FeatureModel:
    """Build a speech LLM with random weights, the kind that is trained from scratch."""
    return TRAINED(SpeechLMSettings.of(sizes), tokenizer, features)


def new_unit_model(sizes: UnitModelSettings) -> UnitModel:
    """Build a model of speech tokens with random weights."""
    return UnitLM(sizes)


def titles(*kinds: InputKind) -> str:
    """Return the titles of the models with these input kinds, such as `Moonshine or Whisper`."""
    return " or ".join(kind.title for kind in KINDS.values() if kind.input_kind in kinds)


def expect(model: SpeechModel, *kinds: InputKind) -> None:
    """Raise CheckpointError unless the model has one of these input kinds."""
    if model.input_kind not in kinds:
        raise CheckpointError(f"{model.name}: {model.title}, expected {titles(*kinds)}")
