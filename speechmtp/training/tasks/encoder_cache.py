"""What heads of an encoder-decoder trunk are trained on: memories of utterances with texts behind them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechmtp.audio.augment import speed_perturb
from speechmtp.data.batch import pooled_rows, seeded
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.decoding.engine import plain_outputs
from speechmtp.errors import DataError
from speechmtp.models.bases.contract import EncoderDecoderModel, SpeechModel
from speechmtp.models.storage import weights_digest
from speechmtp.training.multi_token import Sequences, pad_text
from speechmtp.types import Prompt, stack_prompts

Note = Callable[[int, int], None]
SPEEDS = 0.85, 1.15  # of audio that is heard again
TOGETHER = 128  # utterances whose memories are kept before they are decoded, by length


@dataclass(frozen=True)
class EncodedUtterance:
    """An utterance: its memory [S, E] in half precision, what is said of it (no end token), whether the output ended by
    itself, and its seconds."""

    id: str
    memory: Tensor
    text: list[int]
    ended: bool
    seconds: float


@torch.inference_mode()
def encode_utterances(
    model: EncoderDecoderModel, utterances: Sequence[Utterance], texts: Sequence[list[int]] | None = None,
    allow_pipes: bool = False, rows: int = 16, note: Note = lambda done, total: None, again: int = 0, seed: int = 0,
) -> list[EncodedUtterance]:  # fmt: skip
    """Memories of utterances, each alone, with `texts` or, without them, what the model itself says by its own
    distribution (self-distillation: heads learn the distribution that they will be verified against). Pass `again` from
    1 on hears them at a speed drawn of SPEEDS by `seed`, as far as the longest that the model hears allows."""
    device = model.trunk.unembedding().weight.device
    found: list[EncodedUtterance] = []
    for start in range(0, len(utterances), TOGETHER):
        part = utterances[start : start + TOGETHER]
        memories, limits, seconds = [], [], []
        for utterance in part:
            audio = heard_again(model, utterance, allow_pipes, again, seed)
            length = len(audio) / model.rate
            memories.append(model.memory(audio.to(device)))
            limits.append(model.limit(length))
            seconds.append(length)
        if texts is None:
            said = own_outputs(model, memories, limits, rows)
        else:
            said = [[*text, model.eos[0]] for text in texts[start : start + TOGETHER]]
        for utterance, memory, tokens, length in zip(part, memories, said, seconds):
            ended = tokens[-1:] == [model.eos[0]]
            text = tokens[:-1] if ended else tokens
            name = f"{utterance.id}-pass{again}" if again else utterance.id
            found.append(EncodedUtterance(name, memory[0].half().cpu().clone(), text, ended, length))
        note(len(found), len(utterances))
    return found


def heard_again(model: SpeechModel, utterance: Utterance, allow_pipes: bool, again: int, seed: int) -> Tensor:
    """Samples [N] of an utterance: in pass 0 as they are, later at a speed drawn of SPEEDS by `seed`. A DataError for
    what is too long or too short for the model."""
    samples = utterance.load(model.rate, allow_pipes)
    if again:
        low = max(SPEEDS[0], len(samples) / model.rate / model.longest)
        speed = seeded("speed", seed, again, utterance.id).uniform(low, max(low, SPEEDS[1]))
        samples = at_speed(model, samples, speed)
    length = len(samples) / model.rate
    if length > model.longest or len(samples) < model.shortest:
        where, least = f"{utterance.origin}: {utterance.id}", model.shortest / model.rate
        raise DataError(f"{where}: {length:.2f} s, expected {least:.2f} to {model.longest:.0f} s; leave it out")
    return torch.from_numpy(samples)


def at_speed(model: SpeechModel, samples: np.ndarray, speed: float) -> np.ndarray:
    """Samples [N] at a speed, no slower than the longest that the model hears allows."""
    slowest = len(samples) / model.rate / model.longest
    return speed_perturb(samples, model.rate, round(max(speed, slowest), 3))[: int(model.longest * model.rate)]


def own_outputs(
    model: EncoderDecoderModel, memories: Sequence[Tensor], limits: Sequence[int], rows: int = 16
) -> list[list[int]]:
    """What the model says by its own distribution, `rows` utterances of about one length at a time; memories [1, S,
    E]."""
    order = sorted(range(len(memories)), key=lambda i: (memories[i].shape[1], i))
    found: list[list[int]] = [[] for _ in memories]
    for start in range(0, len(order), rows):
        group = order[start : start + rows]
        prompt = stack_prompts([model.prompt(memories[i]) for i in group])
        tokens = plain_outputs(model.trunk, prompt, model.rules, [limits[i] for i in group])
        for i, row in zip(group, tokens):
            found[i] = row
    return found


class MemoryData:
    """Batches of memories with texts, of about one length each, every item once an epoch."""

    def __init__(self, model: EncoderDecoderModel, items: Iterable[EncodedUtterance], rows: int, seed: int) -> None:
        self._items = [item for item in items if item.text and item.ended]  # a runaway teaches repetitions
        if not self._items:
            raise DataError("heads: no utterance to train on; check the data directory")
        self._model, self._rows, self._seed = model, rows, seed

    def batch(self, number: int) -> list[EncodedUtterance]:
        """Rows of about one length."""
        sizes = [len(item.text) for item in self._items]
        return [self._items[i] for i in pooled_rows("memories", self._seed, number, sizes, self._rows)]

    def count(self, batch: Sequence[EncodedUtterance]) -> int:
        """Tokens with their end tokens."""
        return sum(len(item.text) + 1 for item in batch)

    def sequences(self, batch: Sequence[EncodedUtterance]) -> Sequences:
        """The rows as decoding sees them: start tokens, text, end token."""
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
        """Texts with their end token."""
        return [[*item.text, self._model.eos[0]] for item in self._items]


def prompts_of(model: EncoderDecoderModel, items: Sequence[EncodedUtterance]) -> list[Prompt]:
    """A prompt for each item, one row each."""
    like = model.trunk.unembedding().weight
    return [model.prompt(item.memory[None].to(like)) for item in items]


def memories_key(
    model: EncoderDecoderModel, data: Sequence[DataDir], texts: bool, passes: int = 1, seed: int = 0
) -> str:  # fmt: skip
    """What memories depend on: the model, its distribution, the audio, whether texts are the transcripts, and how often
    and at which speeds it is heard."""
    heard = [[u.id, u.text if texts else "", u.audio, u.start, u.end, u.channel] for d in data for u in d.utterances]
    facts = [
        weights_digest(model.trunk),
        str((model.start_tokens(), model.rules)),
        str(model.config),
        heard,
        *([passes, seed] if passes > 1 else []),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def write_memories(path: Path, items: Sequence[EncodedUtterance], key: str) -> None:
    """Keep memories, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    tensors = {
        "memory": torch.cat([item.memory for item in items]),
        "sizes": torch.tensor([len(item.memory) for item in items]),
        "texts": torch.tensor([token for item in items for token in item.text], dtype=torch.long),
        "text_sizes": torch.tensor([len(item.text) for item in items]),
        "ended": torch.tensor([item.ended for item in items]),
        "seconds": torch.tensor([item.seconds for item in items], dtype=torch.float64),
    }
    names = json.dumps([item.id for item in items])
    save_file(tensors, temporary, {"format": "pt", "key": key, "ids": names})
    temporary.replace(path)


def read_memories(path: Path, key: str) -> list[EncodedUtterance]:
    """Memories kept by `write_memories` for the same model and data; others are a DataError."""
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            if notes.get("key") != key:
                raise DataError(f"{path}: memories of another model or other data; remove it or name another")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}; remove it") from error
    memories = tensors["memory"].split(tensors["sizes"].tolist())
    texts = tensors["texts"].split(tensors["text_sizes"].tolist())
    rest = zip(tensors["ended"].tolist(), tensors["seconds"].tolist())
    return [
        EncodedUtterance(name, memory, text.tolist(), ended, seconds)
        for name, memory, text, (ended, seconds) in zip(json.loads(notes["ids"]), memories, texts, rest)
    ]
