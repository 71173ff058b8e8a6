"""Options and data of fine-tuning: utterances with their targets, and development sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from speechmtp.bundle import Bundle
from speechmtp.config import Range, Seed, Share, Size, check_fields
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.bases.contract import EncoderDecoderModel
from speechmtp.text.normalize import get_normalizer
from speechmtp.training.error_rate import error_rate
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.asr import seconds_of
from speechmtp.training.tasks.encoded_utterances import (
    EncodedUtterance,
    EncodedUtterances,
    Note,
    encoded_utterances,
    own_outputs,
)

Case = Literal["as-is", "lower", "sentence"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Options of one fine-tuning.

    `parts`: `full` trains everything, the encoder at `encoder_factor` times the learning rate; `decoder` freezes the
    encoder, so that audio is encoded once; `lora` trains low-rank adapters of the decoder's query and value
    projections, which are merged at the end. `target_case`: transcripts `as-is`, in `lower` case, or as a `sentence`
    (first letter and single letters except `a` in capitals, full stop at the end), which is how the base models write.
    A share `base_targets` of the rows has the base model's own output as its target in place of the transcript. If
    there is audio to keep, `keep_share` of the `rows` of a batch are taken from it, with a loss weight of
    `keep_weight`. Their target is the base model's distribution at each token with `kl_to_base` (learning without
    forgetting, arXiv 1606.09282), otherwise its output. `speeds` are sampled from for each row (`full` only).
    `smoothing` is the label smoothing.
    """

    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    parts: Literal["full", "decoder", "lora"] = "full"
    target_case: Case = "sentence"
    base_targets: Share = 0.0
    keep_share: Annotated[float, Range(0, 1, below=True)] = 0.25
    keep_weight: Annotated[float, Range(0)] = 1.0
    kl_to_base: bool = True
    encoder_factor: Annotated[float, Range(0)] = 1.0
    speeds: tuple[float, ...] = (1.0,)
    smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0
    lora_rank: Size = 16
    lora_alpha: Size = 32
    steps: Annotated[int, Range(1)] = 500
    rows: Size = 16
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, warmup=50, schedule="cosine", clip=1.0, ema=0.99)
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(evaluate_every=100, save_every=100))

    def __post_init__(self) -> None:
        check_fields(self, "finetune")
        if not self.speeds or min(self.speeds) <= 0:
            raise ConfigError(f"finetune: speeds {self.speeds}, expected numbers such as 0.9, 1, 1.1")
        if self.parts != "full" and set(self.speeds) != {1.0}:
            raise ConfigError(f"finetune: speeds {self.speeds}, expected (1,) with parts {self.parts}; use parts=full")


def target_text(text: str, case: Case) -> str:
    """Convert a transcript to the form in which the model should write it."""
    if case == "as-is":
        return text
    words = text.lower().split()
    if case == "lower" or not words:
        return " ".join(words)
    shown = (w.upper() if len(w) == 1 and w != "a" else "I" + w[1:] if w.startswith("i'") else w for w in words)
    line = " ".join(shown)
    return line[0].upper() + line[1:] + ("" if line[-1] in ".?!" else ".")


@dataclass(frozen=True)
class Pool:
    """Utterances with their targets, the base model's own outputs `base_texts` and, if the encoder is trained, the
    audio.

    `kept` says whether the targets are the base model's own outputs. `dropped` utterances have no target, or one that
    reaches the model's token limit.
    """

    data: EncodedUtterances
    base_texts: Mapping[str, list[int]]
    audio: Mapping[str, Utterance]
    size: int
    kept: bool
    dropped: tuple[str, ...]


def make_pool(
    bundle: Bundle, data: DataDir, config: FinetuneConfig, keep: bool = False, rows: int | None = None,
    file: Path | None = None, allow_pipes: bool = False, note: Note = lambda done, total: None,
) -> Pool:  # fmt: skip
    """Build a pool of utterances whose targets are their transcripts or, with `keep`, the base model's own outputs.

    Encoder outputs, if needed, are computed once and, with `file`, stored there. DataError if no utterance has a usable
    target, or a transcript has characters that the tokenizer lacks.
    """
    model, moves = bundle.encoder_decoder_model, config.parts == "full"
    if keep or config.base_targets or not moves:
        items = encoded_utterances(bundle, [data], "own", file, allow_pipes, note)
    else:
        items = [EncodedUtterance(u.id, torch.empty(0), [], True, _checked_seconds(u, model)) for u in data.utterances]
    base_texts = {item.id: item.text for item in items if item.ended and item.text}
    if keep:
        targets = base_texts
    else:
        texts = {u.id: target_text(u.text or "", config.target_case) for u in data.utterances}
        targets = {name: model.transcript(text) for name, text in texts.items()}
        _check_characters(bundle, data, targets)
    fit = [
        replace(item, text=targets[item.id], ended=True, memory=torch.empty(0) if moves else item.memory)
        for item in items
        if 0 < len(targets.get(item.id, ())) < model.limit(item.seconds)
    ]
    if not fit:
        raise DataError(f"{data.path}: no utterance with a text that the model may say; check its transcripts")
    names = {item.id for item in fit}
    dropped = tuple(u.id for u in data.utterances if u.id not in names)
    audio = {u.id: u for u in data.utterances} if moves else {}
    return Pool(
        EncodedUtterances(model, fit, rows or config.rows, config.seed), base_texts, audio, len(fit), keep, dropped
    )


def _check_characters(bundle: Bundle, data: DataDir, targets: Mapping[str, list[int]]) -> None:
    unknown = bundle.model.unk
    for name, ids in targets.items():
        if unknown is not None and unknown in ids and unknown not in bundle.model.eos:
            raise DataError(
                f"{data.path}/text: {name}: {data[name].text!r} has characters that the model's tokenizer lacks; "
                f"change the transcript"
            )


def _checked_seconds(utterance: Utterance, model: EncoderDecoderModel) -> float:
    """Duration of an utterance in seconds. DataError if it is too long or too short for the model."""
    length = seconds_of(utterance)
    if not model.shortest <= length * model.rate <= model.longest * model.rate:
        raise DataError(
            f"{utterance.origin}: {utterance.id}: {length:.2f} s, expected {model.shortest / model.rate:.2f} to "
            f"{model.longest:.0f} s; cut or drop it"
        )
    return length


@dataclass(frozen=True)
class DevSet:
    """Data for measuring word error rates: `inputs` are encoder outputs [S, E] or, if the encoder is trained (`moves`),
    samples [N]; `limits` are token limits, `words` the normalised references."""

    inputs: list[Tensor]
    moves: bool
    limits: list[int]
    words: list[list[str]]


def make_dev(
    bundle: Bundle, data: DataDir, config: FinetuneConfig, file: Path | None = None, allow_pipes: bool = False,
    note: Note = lambda done, total: None,
) -> DevSet:  # fmt: skip
    """Build the development set of a data directory."""
    model, moves, normalize = bundle.encoder_decoder_model, config.parts == "full", get_normalizer(bundle.normalizer)
    words = [normalize(u.text or "").split() for u in data.utterances]
    if moves:
        seconds = [_checked_seconds(u, model) for u in data.utterances]
        inputs = [torch.from_numpy(u.load(model.rate, allow_pipes)) for u in data.utterances]
    else:
        items = encoded_utterances(bundle, [data], "text", file, allow_pipes, note)
        seconds, inputs = [i.seconds for i in items], [i.memory for i in items]
    return DevSet(inputs, moves, [model.limit(s) for s in seconds], words)


@torch.no_grad()
def word_error_rate(bundle: Bundle, dev: DevSet) -> float:
    """WER in percent of the model's greedy transcripts, with the bundle's normaliser."""
    model, normalize = bundle.encoder_decoder_model, get_normalizer(bundle.normalizer)
    like = model.trunk.unembedding().weight
    encoder_outputs = [model.memory(x.to(like.device)) if dev.moves else x[None].to(like) for x in dev.inputs]
    outputs = own_outputs(model, encoder_outputs, dev.limits)
    return error_rate((words, normalize(bundle.model.decode(row)).split()) for words, row in zip(dev.words, outputs))
