"""Task `asr`: train a speech LLM from Kaldi data directories, phase by phase."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from speechmtp.audio.features import Fbank, FbankConfig
from speechmtp.audio.io import audio_info
from speechmtp.bundle import Bundle, load_without_heads
from speechmtp.config import Seed
from speechmtp.data.feature_store import FeatureStore
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.errors import ConfigError, DataError
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.bases.contract import FeatureModel
from speechmtp.models.bases.table import new_model
from speechmtp.models.encoder import EncoderConfig
from speechmtp.models.encoder_lm import EncoderLM, ModelConfig
from speechmtp.models.locate import locate
from speechmtp.text.normalize import get_normalizer
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training import distributed
from speechmtp.training.inputs import check_inputs, data_fact, folder_facts, keep_inputs
from speechmtp.training.loop import LoopConfig, Phase, finished, load_finished, run_phase
from speechmtp.training.tasks.ctc import AudioData, CtcPhase, CtcPhaseConfig, set_statistics
from speechmtp.training.tasks.joint import JointPhase, JointPhaseConfig
from speechmtp.training.tasks.text import TextPhase, TextPhaseConfig

CONFIG = "config.yaml"  # of a training
PATHS = ("tokenizer", "encoder_from", "model.trunk.name")  # its fields that name files; what is in them is compared

PhaseConfig = CtcPhaseConfig | TextPhaseConfig | JointPhaseConfig


@dataclass(frozen=True)
class AsrConfig:
    """Options of one training: features, tokenizer, model, heads, phases and loop.

    `encoder_from` is a model folder, or the name of an embedded model, whose encoder is used and stays frozen, so that
    one encoder can serve both models. `cache_mb` is the size of the feature cache. ConfigError for options that do not
    fit together.
    """

    seed: Seed = 0
    tokenizer: str = "data/tokenizer.model"
    normalizer: str = "kaldi-basic"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_mb: float = 2000.0
    encoder_from: str = ""
    features: FbankConfig = field(default_factory=FbankConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    heads: HeadsConfig = field(default_factory=LatentHeadsConfig)
    phases: tuple[CtcPhaseConfig | TextPhaseConfig | JointPhaseConfig, ...] = (
        CtcPhaseConfig(),
        TextPhaseConfig(),
        JointPhaseConfig(),
    )
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if len(set(names)) < len(names):
            raise ConfigError(f"phases: names must differ, found {', '.join(names)}; set `name`")
        if self.encoder_from:
            other = [phase.name for phase in self.phases if not isinstance(phase, TextPhaseConfig)]
            if other:
                raise ConfigError(
                    f"phases: {other[0]} trains the encoder, but that of encoder_from stays as it is; have only phases "
                    f"of kind text"
                )
            return  # the features of `encoder_from` are known only when it is loaded
        bins, expected = self.features.num_mels, self.model.encoder.features
        if bins != expected:
            raise ConfigError(f"model.encoder.features: {expected}, expected features.num_mels, which is {bins}")


@dataclass(frozen=True)
class Trained:
    """The result of a training: model, heads, and the development metrics of the last phase."""

    model: FeatureModel
    heads: HeadSet
    figures: Mapping[str, float]


def train_asr(
    config: AsrConfig, train: DataDir, dev: DataDir, out: Path, resume: bool = False, allow_pipes: bool = False,
    device: str = "cpu", report: Callable[[dict[str, object]], None] = lambda _: None,
) -> Trained:  # fmt: skip
    """Run all phases, each in a folder of `out`, which must be new unless `resume` is given. In the first process,
    `report` is called with the utterances that a phase drops and with its metrics. ConfigError if `out` holds a
    training already, CheckpointError if it was started with another configuration, tokenizer, encoder or data."""
    if (out / CONFIG).exists() and not resume:
        raise ConfigError(f"{out}: holds a training already; give resume=True to go on, or another out=")
    tokenizer = Tokenizer.load(config.tokenizer)
    inputs = _facts(config, tokenizer, train, dev)
    check_inputs(out, CONFIG, config, inputs, PATHS)
    torch.manual_seed(config.seed)
    model = fresh_model(config, tokenizer)
    target = distributed.own_device(device)
    rank, _ = distributed.start(target)
    if rank == 0:
        keep_inputs(out, CONFIG, config, inputs, PATHS)
    model.to(target)
    heads = build_heads(config.heads, model.trunk.shape).to(target)
    data = {
        name: audio_data(directory, config.features, config.normalizer, tokenizer, allow_pipes, config.cache_mb)
        for name, directory in (("train", train), ("dev", dev))
    }
    if not config.encoder_from:
        set_statistics(model.encoder, data["train"])
    precision = pick_precision(config.precision, target)
    figures: dict[str, float] = {}
    for phase in config.phases:
        folder = out / phase.name
        if resume and finished(folder):
            figures = load_finished(phase_module(phase, model, heads), folder)
        else:
            run = make_phase(phase, config, model, heads, data, tokenizer, precision)
            short = getattr(run, "dropped", ())
            if short and rank == 0:
                report({"phase": phase.name, "dropped": len(short), "too_short": short[:5]})
            figures = run_phase(run, folder, config.loop, config.seed, resume)
        if rank == 0:
            report({"phase": phase.name, **{k: round(v, 3) for k, v in figures.items()}})
    return Trained(model.eval(), heads.eval(), figures)


def fresh_model(config: AsrConfig, tokenizer: Tokenizer) -> FeatureModel:
    """Build a model with new weights, with the frozen encoder of `encoder_from` if that is given."""
    if not config.encoder_from:
        return new_model(config.model, tokenizer, config.features)
    source = encoder_source(config, tokenizer).feature_model
    model = new_model(replace(config.model, encoder=source.encoder.config), tokenizer, config.features)
    model.encoder = source.encoder.requires_grad_(False)
    return model


def encoder_source(config: AsrConfig, tokenizer: Tokenizer) -> Bundle:
    """Load the model of `encoder_from`. ConfigError if its features, normaliser, tokenizer or encoder sizes differ from
    the configuration."""
    name = config.encoder_from
    source = load_without_heads(name)
    model = source.feature_model
    own, theirs = config.features, model.features
    differing = [f.name for f in fields(own) if getattr(own, f.name) != getattr(theirs, f.name)]
    if differing:
        key = differing[0]
        found, expected = getattr(own, key), getattr(theirs, key)
        raise ConfigError(f"features.{key}: {found}, expected {expected}, that of encoder_from {name}; set it so")
    if config.normalizer != source.normalizer:
        expected = source.normalizer
        raise ConfigError(f"normalizer: {config.normalizer}, expected {expected}, that of encoder_from {name}; set it")
    if tokenizer.sha256 != model.tokenizer.sha256:
        raise ConfigError(
            f"tokenizer: {config.tokenizer} is not that of encoder_from {name}, whose CTC head speaks in its own "
            f"pieces; use {source.folder / 'tokenizer.model'}"
        )
    if config.model.encoder not in (EncoderConfig(), model.encoder.config):
        raise ConfigError(f"model.encoder: other sizes than those of encoder_from {name}; leave model.encoder out")
    return source


def make_phase(
    phase: PhaseConfig, config: AsrConfig, model: EncoderLM, heads: HeadSet, data: dict[str, AudioData],
    tokenizer: Tokenizer, precision: torch.dtype,
) -> Phase:  # fmt: skip
    """Build a phase from its configuration; this may read the training audio."""
    train, dev, seed = data["train"], data["dev"], config.seed
    normalize = get_normalizer(config.normalizer)
    if isinstance(phase, CtcPhaseConfig):
        return CtcPhase(phase, model.encoder, train, dev, seed, precision)
    if isinstance(phase, TextPhaseConfig):
        heads.start_from(model.trunk)
        return TextPhase(phase, model, heads, train, dev, tokenizer, seed, precision, normalize)
    return JointPhase(phase, model, heads, train, dev, tokenizer, seed, precision, normalize)


def phase_module(phase: PhaseConfig, model: EncoderLM, heads: HeadSet) -> nn.Module:
    """The module that a phase trains and stores."""
    if isinstance(phase, CtcPhaseConfig):
        return model.encoder
    if isinstance(phase, TextPhaseConfig):
        return nn.ModuleDict({"adapter": model.adapter, "trunk": model.trunk, "heads": heads})
    return nn.ModuleDict({"model": model, "heads": heads})


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast; `auto` is bfloat16 if the hardware supports it, otherwise float32."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def seconds_of(utterance: Utterance) -> float:
    """Duration in seconds, from the data directory or else counted in the audio file. DataError for a command
    without a known duration."""
    if utterance.duration is not None:
        return utterance.duration
    if utterance.pipe:
        raise DataError(f"{utterance.origin}: no duration on file for a command; add utt2dur")
    info = audio_info(utterance.audio)
    end = info.duration if utterance.end is None else min(utterance.end, info.duration)
    return end - utterance.start


def audio_data(
    data: DataDir, features: FbankConfig, normalizer_id: str, tokenizer: Tokenizer, allow_pipes: bool = False,
    cache_mb: float = 2000.0,
) -> AudioData:  # fmt: skip
    """Features (computed on demand), token ids and durations of a data directory. DataError for a transcript with
    characters that the tokenizer lacks."""
    normalizer = get_normalizer(normalizer_id)
    tokens, durations = {}, {}
    for utterance in data.utterances:
        tokens[utterance.id] = tokenizer.encode(normalizer(utterance.text or ""))
        if tokenizer.unk in tokens[utterance.id]:
            raise DataError(
                f"{data.path}/text: {utterance.id}: {utterance.text!r} has characters that the tokenizer lacks; "
                f"train the tokenizer on this text"
            )
        durations[utterance.id] = seconds_of(utterance)
    store = FeatureStore(data, Fbank(features), cache_mb, allow_pipes)
    return AudioData(store, tokens, durations)


def _facts(config: AsrConfig, tokenizer: Tokenizer, train: DataDir, dev: DataDir) -> dict[str, str]:
    """The facts that a training depends on besides its configuration."""
    facts = {"tokenizer": f"{len(tokenizer)} pieces (sha256 {tokenizer.sha256[:16]})"}
    trunk = getattr(config.model.trunk, "name", "")
    for role, name in (("encoder", config.encoder_from), ("trunk", trunk)):
        facts |= folder_facts(role, locate(name)) if name else {}
    return {**facts, "train data": data_fact(train), "dev data": data_fact(dev)}
