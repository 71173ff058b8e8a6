"""Task `asr`: a speech LLM from Kaldi data directories, phase by phase."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from speechmtp.audio.features import Fbank, FbankConfig
from speechmtp.audio.io import audio_info
from speechmtp.config import write_yaml
from speechmtp.data.kaldi import DataDir, Utterance, read_data_dir
from speechmtp.data.store import FeatureStore
from speechmtp.errors import CheckpointError, ConfigError, DataError
from speechmtp.models.encoder import Encoder, EncoderConfig
from speechmtp.text.normalize import get_normalizer
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.training.loop import LoopConfig, run_phase
from speechmtp.training.tasks.ctc import AudioData, CtcPhase, CtcPhaseConfig, set_statistics


@dataclass(frozen=True)
class AsrConfig:
    """Everything about one training: the model, the phases that train it, and how they are logged."""

    seed: int = 0
    tokenizer: str = "data/tokenizer.model"
    normalizer: str = "kaldi-basic"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_mb: float = 2000.0
    features: FbankConfig = field(default_factory=FbankConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    phases: tuple[CtcPhaseConfig, ...] = (CtcPhaseConfig(),)
    loop: LoopConfig = field(default_factory=LoopConfig)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of autocast: bfloat16 where the hardware multiplies it, if `auto`."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def seconds_of(utterance: Utterance) -> float:
    """Duration from the data directory, else from the header of its audio."""
    if utterance.duration is not None:
        return utterance.duration
    info = audio_info(utterance.audio)
    end = info.duration if utterance.end is None else min(utterance.end, info.duration)
    return end - utterance.start


def audio_data(data: DataDir, config: AsrConfig, tokenizer: Tokenizer, allow_pipes: bool = False) -> AudioData:
    """Features on demand, token ids and durations of a data directory."""
    normalizer = get_normalizer(config.normalizer)
    tokens, durations = {}, {}
    for utterance in data.utterances:
        tokens[utterance.id] = tokenizer.encode(normalizer(utterance.text or ""))
        if tokenizer.unk in tokens[utterance.id]:
            raise DataError(f"{data.path}/text: {utterance.id}: {utterance.text!r} has characters that the "
                            f"tokenizer lacks; train the tokenizer on this text")  # fmt: skip
        durations[utterance.id] = seconds_of(utterance)
    store = FeatureStore(data, Fbank(config.features), config.cache_mb, allow_pipes)
    return AudioData(store, tokens, durations)


def train_asr(config: AsrConfig, train: Path, dev: Path, out: Path, resume: bool = False, root: str | None = None,
              allow_pipes: bool = False, device: str = "cpu") -> None:  # fmt: skip
    """Run all phases into `out`, a folder each; `out` must be new, or `resume` given."""
    if out.exists() and any(out.iterdir()) and not resume:
        raise ConfigError(f"{out}: is not empty; give --resume to go on or another --out")
    out.mkdir(parents=True, exist_ok=True)
    _keep_config(config, out)
    tokenizer = Tokenizer.load(config.tokenizer)
    target = torch.device(device)
    torch.manual_seed(config.seed)
    encoder = Encoder(config.encoder, len(tokenizer)).to(target)
    data = {name: audio_data(read_data_dir(path, root, allow_pipes=allow_pipes), config, tokenizer, allow_pipes)
            for name, path in (("train", train), ("dev", dev))}  # fmt: skip
    set_statistics(encoder, data["train"])
    precision = pick_precision(config.precision, target)
    for phase in config.phases:
        run = CtcPhase(phase, encoder, data["train"], data["dev"], config.seed, precision)
        figures = run_phase(run, out / phase.name, config.loop, config.seed, resume)
        print(json.dumps({"phase": phase.name, **figures}))


def _keep_config(config: AsrConfig, out: Path) -> None:
    path = out / "config.yaml"
    temporary = out / "config.yaml.tmp"
    write_yaml(temporary, config)
    if path.exists() and path.read_text() != temporary.read_text():
        raise CheckpointError(f"{path}: differs from the configuration given; resume with the same one or change --out")
    temporary.replace(path)
