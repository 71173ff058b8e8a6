"""Training data for heads of an encoder-decoder model: encoder outputs of utterances, and their texts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechmtp.audio.augment import speed_perturb
from speechmtp.batching import ROWS, batches_by_size
from speechmtp.bundle import Bundle
from speechmtp.data.batch import pooled_rows, seeded
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.decoding.engine import plain_outputs
from speechmtp.errors import DataError
from speechmtp.heads.folder import trunk_settings
from speechmtp.models.bases.contract import EncoderDecoderModel, SpeechModel
from speechmtp.models.storage import weights_digest
from speechmtp.training.multi_token import Sequences, pad_text
from speechmtp.training.tasks.encoder_cache import EncoderCache, audio_facts
from speechmtp.types import Prompt, stack_prompts

Note = Callable[[int, int], None]
SPEEDS = 0.85, 1.15  # range of the speed of audio in all passes but the first
TOGETHER = 128  # utterances that are encoded before they are decoded in batches of similar length


@dataclass(frozen=True)
class EncodedUtterance:
    """An utterance: encoder outputs `memory` [S, E] in half precision, token ids `text` without an end token, whether
    they `ended` with one, and the duration in seconds."""

    id: str
    memory: Tensor
    text: list[int]
    ended: bool
    seconds: float


def encoded_utterances(
    bundle: Bundle, data: Sequence[DataDir], targets: str, file: Path | None, allow_pipes: bool, note: Note,
    passes: int = 1, seed: int = 0,
) -> list[EncodedUtterance]:  # fmt: skip
    """Encode the utterances of data directories, with the model's own outputs (targets `own`) or the transcripts
    (`text`) as texts, in each of several `passes`, all but the first at other speeds. With `file` they are computed
    once and stored there; DataError if the file holds other utterances."""
    model, own = bundle.encoder_decoder_model, targets == "own"
    utterances = [u for directory in data for u in directory.utterances]
    total = passes * len(utterances)

    def compute() -> list[EncodedUtterance]:
        texts = None if own else [model.transcript(u.text or "") for u in utterances]
        items: list[EncodedUtterance] = []
        for number in range(passes):

            def passed(done: int, _: int, before: int = number * len(utterances)) -> None:
                note(before + done, total)

            items += encode_utterances(
                model, utterances, texts, allow_pipes, note=passed, pass_number=number, seed=seed
            )  # fmt: skip
        return items

    facts = [
        weights_digest(model.trunk), trunk_settings(model), str((model.start_tokens(), model.rules)), str(model.config),
        audio_facts(utterances, not own), *([passes, seed] if passes > 1 else []),
    ]  # fmt: skip
    return EncoderCache(file, EncodedUtterance, facts).get(compute)


@torch.inference_mode()
def encode_utterances(
    model: EncoderDecoderModel, utterances: Sequence[Utterance], texts: Sequence[list[int]] | None = None,
    allow_pipes: bool = False, rows: int = ROWS, note: Note = lambda done, total: None, pass_number: int = 0,
    seed: int = 0,
) -> list[EncodedUtterance]:  # fmt: skip
    """Encode utterances one at a time, with `texts` or, if None, the model's own greedy outputs (self-distillation:
    heads learn the distribution that will verify them). From pass 1 on, the speed of each utterance is sampled from
    SPEEDS with `seed`, but no slower than the model's longest audio allows."""
    device = model.trunk.unembedding().weight.device
    found: list[EncodedUtterance] = []
    for start in range(0, len(utterances), TOGETHER):
        part = utterances[start : start + TOGETHER]
        encoder_outputs, limits, seconds = [], [], []
        for utterance in part:
            audio = load_samples(model, utterance, allow_pipes, pass_number, seed)
            length = len(audio) / model.rate
            encoder_outputs.append(model.memory(audio.to(device)))
            limits.append(model.limit(length))
            seconds.append(length)
        if texts is None:
            outputs = own_outputs(model, encoder_outputs, limits, rows)
        else:
            outputs = [[*text, model.eos[0]] for text in texts[start : start + TOGETHER]]
        for utterance, memory, tokens, length in zip(part, encoder_outputs, outputs, seconds):
            ended = tokens[-1:] == [model.eos[0]]
            text = tokens[:-1] if ended else tokens
            name = f"{utterance.id}-pass{pass_number}" if pass_number else utterance.id
            found.append(EncodedUtterance(name, memory[0].half().cpu().clone(), text, ended, length))
        note(len(found), len(utterances))
    return found


def load_samples(model: SpeechModel, utterance: Utterance, allow_pipes: bool, pass_number: int, seed: int) -> Tensor:
    """Load samples [N] of an utterance, in pass 0 unchanged, in later passes at a speed sampled from SPEEDS with
    `seed`. DataError for audio that is too long or too short for the model."""
    samples = utterance.load(model.rate, allow_pipes)
    if pass_number:
        low = max(SPEEDS[0], len(samples) / model.rate / model.longest)
        speed = seeded("speed", seed, pass_number, utterance.id).uniform(low, max(low, SPEEDS[1]))
        samples = at_speed(model, samples, speed)
    length = len(samples) / model.rate
    if length > model.longest or len(samples) < model.shortest:
        where, shortest = f"{utterance.origin}: {utterance.id}", model.shortest / model.rate
        raise DataError(f"{where}: {length:.2f} s, expected {shortest:.2f} to {model.longest:.0f} s; leave it out")
    return torch.from_numpy(samples)


def at_speed(model: SpeechModel, samples: np.ndarray, speed: float) -> np.ndarray:
    """Change the speed of samples [N], but make them no slower than the model's longest audio allows."""
    slowest = len(samples) / model.rate / model.longest
    return speed_perturb(samples, model.rate, round(max(speed, slowest), 3))[: int(model.longest * model.rate)]


def own_outputs(
    model: EncoderDecoderModel, encoder_outputs: Sequence[Tensor], limits: Sequence[int], rows: int = ROWS
) -> list[list[int]]:
    """The model's greedy outputs for encoder outputs [1, S, E] each, with at most `limits` tokens each, decoded in
    batches of `rows` utterances of similar length."""
    found: list[list[int]] = [[] for _ in encoder_outputs]
    for group in batches_by_size([memory.shape[1] for memory in encoder_outputs], rows):
        prompt = stack_prompts([model.prompt(encoder_outputs[i]) for i in group])
        tokens = plain_outputs(model.trunk, prompt, model.rules, [limits[i] for i in group])
        for i, row in zip(group, tokens):
            found[i] = row
    return found


class EncodedUtterances:
    """Batches of encoded utterances of similar length, each utterance once per epoch.

    Utterances without a text, or whose output reached the limit before an end token, are left out: outputs that were
    cut off would teach repetitions. DataError if none is left.
    """

    def __init__(self, model: EncoderDecoderModel, items: Iterable[EncodedUtterance], rows: int, seed: int) -> None:
        self._items = [item for item in items if item.text and item.ended]
        if not self._items:
            raise DataError("heads: no utterance to train on; check the data directory")
        self._model, self._rows, self._seed = model, rows, seed

    def batch(self, number: int) -> list[EncodedUtterance]:
        """Rows of similar length."""
        sizes = [len(item.text) for item in self._items]
        return [self._items[i] for i in pooled_rows("memories", self._seed, number, sizes, self._rows)]

    def count(self, batch: Sequence[EncodedUtterance]) -> int:
        """Number of tokens, including end tokens."""
        return sum(len(item.text) + 1 for item in batch)

    def sequences(self, batch: Sequence[EncodedUtterance]) -> Sequences:
        """The rows in the same layout as in decoding: start tokens, text, end token."""
        trunk = self._model.trunk
        like = trunk.unembedding().weight
        start_tokens = list(self._model.start_tokens())
        ids, lengths = pad_text(
            [[*start_tokens[1:], *item.text] for item in batch], start_tokens[0], self._model.eos[0]
        )
        ids, lengths = ids.to(like.device), lengths.to(like.device)
        steps = torch.arange(ids.shape[1], device=like.device)
        inside = steps < lengths[:, None]
        sizes = torch.tensor([len(item.memory) for item in batch], device=like.device)
        return Sequences(
            trunk.embed(ids), steps.expand_as(ids), ids.masked_fill(~inside, -1), torch.where(inside, 0, -1),
            inside & (steps >= len(start_tokens) - 1), None,
            pad_sequence([item.memory for item in batch], batch_first=True).to(like), sizes,
        )  # fmt: skip

    def tokens(self) -> Sequence[Sequence[int]]:
        """The token ids of all texts, each with an end token."""
        return [[*item.text, self._model.eos[0]] for item in self._items]


def prompts_of(model: EncoderDecoderModel, items: Sequence[EncodedUtterance]) -> list[Prompt]:
    """A prompt of one row for each item."""
    like = model.trunk.unembedding().weight
    return [model.prompt(item.memory[None].to(like)) for item in items]
