"""Task `finetune`: fine-tune a pretrained recogniser on transcribed audio.

Its own greedy transcripts, of the same audio or of other audio, can be additional targets, so that it forgets less
(sequence-level self-distillation, arXiv 1606.07947).
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechmtp.bundle import Bundle
from speechmtp.data.batch import seeded
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.models.bases.contract import EncoderDecoderModel
from speechmtp.models.lora import Lora
from speechmtp.training.loop import finished, load_finished, run_phase
from speechmtp.training.losses import MultiTokenConfig, in_chunks, rows_against_teacher, rows_ce
from speechmtp.training.multi_token import Sequences
from speechmtp.training.tasks.encoded_utterances import EncodedUtterance, at_speed
from speechmtp.training.tasks.finetune_data import DevSet, FinetuneConfig, Pool, word_error_rate

CHUNK = 1024  # rows whose logits are computed at a time


def adapter_targets(model: EncoderDecoderModel) -> list[str]:
    """Names of the query and value projections in the decoder's self-attention and cross-attention."""
    trunk = model.trunk.model
    decoder = {id(part) for part in trunk.get_decoder().modules()}
    return [
        name for name, part in trunk.named_modules()
        if id(part) in decoder and name.rpartition(".")[2] in ("q_proj", "v_proj")
    ]  # fmt: skip


class FinetunePhase:
    """Training of a recogniser's chosen parts on batches that hold rows of every pool."""

    def __init__(
        self, config: FinetuneConfig, bundle: Bundle, pools: Sequence[Pool], dev: Sequence[DevSet],
        precision: torch.dtype,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim = config.parts, config.steps, config.optim
        self._config, self._bundle, self._pools, self._dev = config, bundle, pools, dev
        self._precision, self._model = precision, bundle.encoder_decoder_model
        trunk = self._model.trunk
        holds = config.kl_to_base and any(pool.kept for pool in pools)
        self._before = copy.deepcopy(self._model).eval() if holds else None
        self._encoder = {id(p) for p in trunk.model.get_encoder().parameters()}
        self.module: nn.Module = trunk.model
        self.lora: Lora | None = None
        if config.parts == "lora":
            self.lora = Lora(trunk.model, config.lora_rank, config.lora_alpha, adapter_targets(self._model))
            self.lora.draw_normal(config.seed)
            self.module = self.lora.adapters()
        elif config.parts == "decoder":  # the output layer is named too, since it may have weights of its own
            self.module = nn.ModuleList([trunk.model.get_decoder(), trunk.unembedding()])
        self.module.requires_grad_(True)
        trunk.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """The encoder's parameters at `encoder_factor` of the learning rate, all others at the full learning rate."""
        for parameter in self.module.parameters():
            yield parameter, self._config.encoder_factor if id(parameter) in self._encoder else 1.0

    def batch(self, number: int) -> list[list[EncodedUtterance]]:
        """Rows of every pool; if the encoder is trained, their `memory` holds samples [N]."""
        draw = seeded("finetune", self._config.seed, number)
        return [[self._row(pool, item, draw) for item in pool.data.batch(number)] for pool in self._pools]

    def _row(self, pool: Pool, item: EncodedUtterance, draw: Any) -> EncodedUtterance:
        own, speed = draw.random() < self._config.base_targets, float(draw.choice(self._config.speeds))
        if own and item.id in pool.base_texts:
            item = replace(item, text=pool.base_texts[item.id])
        if item.id not in pool.audio:
            return item
        audio = pool.audio[item.id].load(self._model.rate, allow_pipes=True)  # checked when the data was read
        if speed != 1:
            audio = at_speed(self._model, audio, speed)
        return replace(item, memory=torch.from_numpy(audio))

    def weight(self, batch: Sequence[Sequence[EncodedUtterance]]) -> float:
        """Number of tokens, including end tokens."""
        return float(sum(pool.data.count(rows) for pool, rows in zip(self._pools, batch)))

    def loss(self, batch: Sequence[Sequence[EncodedUtterance]], step: int) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropy of texts and end tokens; for kept audio with `kl_to_base`, the KL divergence from the
        distribution before training. Logits are not masked, so suppressed ids in a transcript are allowed."""
        device = self._model.trunk.unembedding().weight.device
        total = torch.zeros((), device=device)
        for pool, rows in zip(self._pools, batch):
            with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
                hidden, labels = self._states(self._model, pool, rows)
                asked = labels != IGNORED
                if pool.kept and self._before is not None:
                    with torch.no_grad():
                        teacher, _ = self._states(self._before, pool, rows)
                    part = in_chunks(self._divergence, CHUNK, hidden[asked], teacher[asked])
                else:
                    part = in_chunks(self._entropy, CHUNK, hidden[asked], labels[asked])
            total = total + (self._config.keep_weight if pool.kept else 1.0) * part
        return total, {}

    def _entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return rows_ce(self._model.trunk.unembedding()(hidden), labels, self._config.smoothing)

    def _divergence(self, hidden: Tensor, before: Tensor) -> Tensor:
        assert self._before is not None
        with torch.no_grad():
            teacher = self._before.trunk.unembedding()(before)
        return rows_against_teacher(self._model.trunk.unembedding()(hidden), teacher, None, MultiTokenConfig(kind="kd"))

    @staticmethod
    def _states(model: EncoderDecoderModel, pool: Pool, rows: Sequence[EncodedUtterance]) -> tuple[Tensor, Tensor]:
        """Decoder states [B, L, C] of rows, and their labels [B, L]."""
        s = on_trunk(model, pool.data.sequences(encode_rows(model, rows) if pool.audio else rows))
        hidden = model.trunk(s.embeddings, s.positions, s.segments, (), s.memory, s.memory_lengths).hidden
        return hidden, shifted_labels(s.ids, s.segments, 0, s.wanted, s.starts)[..., 0]

    def evaluate(self) -> dict[str, float]:
        """Word error rates of the development sets (`wer`, `wer_2`, ...); `score` is their mean."""
        trunk = self._model.trunk
        training = trunk.training
        trunk.eval()
        rates = [word_error_rate(self._bundle, dev) for dev in self._dev]
        trunk.train(training)
        names = ["wer", *(f"wer_{n}" for n in range(2, len(rates) + 1))]
        return {"score": sum(rates) / len(rates), **dict(zip(names, rates))}


def on_trunk(model: EncoderDecoderModel, sequences: Sequences) -> Sequences:
    """Replace the embeddings of sequences by those of this model, which may differ from the model that built them."""
    return replace(sequences, embeddings=model.trunk.embed(sequences.ids.clamp_min(0)))


def encode_rows(model: EncoderDecoderModel, rows: Sequence[EncodedUtterance]) -> list[EncodedUtterance]:
    """Replace the samples of rows by encoder outputs. Rows of equal length are encoded together, since the encoder does
    not handle padding."""
    features = [model.inputs(row.memory.to(model.device)) for row in rows]
    encoder_outputs: dict[int, Tensor] = {}
    for shape in {f.shape for f in features}:
        alike = [i for i, f in enumerate(features) if f.shape == shape]
        encoder_outputs |= dict(zip(alike, model.encode_audio(torch.cat([features[i] for i in alike]))))
    return [replace(row, memory=encoder_outputs[i]) for i, row in enumerate(rows)]


def finetune(
    config: FinetuneConfig, bundle: Bundle, pools: Sequence[Pool], dev: Sequence[DevSet], precision: torch.dtype,
    out: Path, resume: bool = False,
) -> tuple[dict[str, float], dict[str, float]]:  # fmt: skip
    """Fine-tune the bundle's model in place, with its checkpoints in a folder of `out`; returns the development metrics
    before and after."""
    phase = FinetunePhase(config, bundle, pools, dev, precision)
    model, folder = bundle.encoder_decoder_model, out / phase.name
    before = phase.evaluate()
    if resume and finished(folder):
        after = load_finished(phase.module, folder)
    else:
        after = run_phase(phase, folder, config.loop, config.seed, resume)
    if phase.lora is not None:
        phase.lora.merge()
    model.requires_grad_(False)
    model.eval()
    return before, after
