"""What heads are trained on, as data and development figures, for models of every way of reading."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir
from speechmtp.decoding.engine import Limits
from speechmtp.errors import DataError
from speechmtp.evaluation.held_out import HeldOut, read_texts
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.bases.contract import TextModel
from speechmtp.models.storage import weights_digest
from speechmtp.text.normalize import get_normalizer
from speechmtp.training.tasks.asr import audio_data
from speechmtp.training.tasks.ctc import evaluation_batches
from speechmtp.training.tasks.encoder_cache import (
    EncodedUtterance,
    MemoryData,
    encode_utterances,
    memories_key,
    prompts_of,
    read_memories,
    write_memories,
)
from speechmtp.training.tasks.head_data import (
    HeardData,
    HeardText,
    PackedText,
    hear_texts,
    own_continuations,
)
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.training.tasks.trunk_loss import error_rate
from speechmtp.types import Prompt

Note = Callable[[int, int], None]


def heard_data(
    bundle: Bundle, data: DataDir, config: HeadsTrainConfig, prompts: Path | None, allow_pipes: bool, note: Note
) -> HeardData:
    """Training data from audio; prompts are computed once and, with `prompts`, kept in that file."""
    model, tokenizer = bundle.feature_model, bundle.feature_model.tokenizer
    heard = [[u.id, u.text, u.audio, u.start, u.end, u.channel] for u in data.utterances]
    facts = [weights_digest(model), str(bundle.config), config.passes, config.targets, config.prompts_seed]
    key = hashlib.sha256(json.dumps([*facts, str(config.augment), heard]).encode()).hexdigest()
    items = None if prompts is None or not prompts.exists() else read_prompts(prompts, key)
    if items is None:
        audio = audio_data(data, model.features, bundle.normalizer, tokenizer, allow_pipes)
        own = config.targets == "own"
        items = hear_texts(
            model, audio, config.passes, config.augment, tokenizer.eos, own, config.prompts_seed, note
        )  # fmt: skip
        if prompts is not None:
            write_prompts(prompts, items, key)
    return HeardData(model.trunk, items, config.rows, tokenizer.bos, tokenizer.eos, config.seed)


def packed_data(lm: TextModel, files: Sequence[str], config: HeadsTrainConfig) -> PackedText:
    """Training data from text files, a text a line; with targets `own` the model says how each goes on."""
    texts = [text[: config.size] for text in read_texts(lm, files)]
    if config.targets == "own":
        texts = own_continuations(lm.trunk, texts, config.prompt_tokens, lm.eos[0])
    return PackedText(lm.trunk, texts, config.rows, config.size, config.prompt_tokens, config.seed)


def write_prompts(path: Path, items: Sequence[HeardText], key: str) -> None:
    """Keep computed prompts, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    tensors = {
        "embeddings": torch.cat([i.embeddings for i in items]),
        "positions": torch.cat([i.positions for i in items]),
        "sizes": torch.tensor([len(i.positions) for i in items]),
        "starts": torch.tensor([i.text_position for i in items]),
        "texts": torch.tensor([t for i in items for t in i.text], dtype=torch.long),
        "text_sizes": torch.tensor([len(i.text) for i in items]),
    }
    save_file(tensors, temporary, {"format": "pt", "key": key})
    temporary.replace(path)


def read_prompts(path: Path, key: str) -> list[HeardText]:
    """Prompts kept by `write_prompts` for the same model, data and options; others are an error."""
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                raise DataError(f"{path}: prompts of another model, data or options; remove it or name another")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}; remove it") from error
    sizes, text_sizes = tensors["sizes"].tolist(), tensors["text_sizes"].tolist()
    embeddings, positions = tensors["embeddings"].split(sizes), tensors["positions"].split(sizes)
    texts = tensors["texts"].split(text_sizes)
    return [
        HeardText(e, p, start, text.tolist())
        for e, p, start, text in zip(embeddings, positions, tensors["starts"].tolist(), texts)
    ]


@torch.no_grad()
def heard_dev(bundle: Bundle, data: DataDir, allow_pipes: bool) -> HeldOut:
    """The development set of a speech LLM."""
    model, tokenizer = bundle.feature_model, bundle.feature_model.tokenizer
    audio = audio_data(data, model.features, bundle.normalizer, tokenizer, allow_pipes)
    device = model.encoder.mean.device
    heard: list[AudioPrompt] = []
    names: list[str] = []
    for batch in evaluation_batches(audio):
        out = model.encode_audio(batch.frames.to(device), batch.lengths.to(device))
        heard.append(model.adapter(model.adapter.segments(out)))
        names += batch.ids

    @torch.no_grad()
    def prompts() -> list[Prompt]:  # the start token is one of the trunk's
        return [p.row(i) for p in map(model.close_prompt, heard) for i in range(len(p.lengths))]

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        said = (tokenizer.decode([t for t in row if t != tokenizer.eos]).split() for row in found)
        return error_rate((tokenizer.decode(audio.tokens[n]).split(), words) for n, words in zip(names, said))

    return HeldOut(model.trunk, prompts, model.rules, Limits(), word_errors)


def memory_data(
    bundle: Bundle, data: Sequence[DataDir], config: HeadsTrainConfig, file: Path | None, allow_pipes: bool, note: Note
) -> MemoryData:
    """Training data of a pretrained recogniser; memories are computed once and, with `file`, kept there."""
    items = memory_items(
        bundle, data, config.targets, file, allow_pipes, note, config.passes, config.prompts_seed
    )  # fmt: skip
    return MemoryData(bundle.encoder_decoder_model, items, config.rows, config.seed)


def memory_items(
    bundle: Bundle, data: Sequence[DataDir], targets: str, file: Path | None, allow_pipes: bool, note: Note,
    passes: int = 1, seed: int = 0,
) -> list[EncodedUtterance]:  # fmt: skip
    """Memories of data directories with what the model itself says (targets `own`) or the transcripts (`text`); all
    but the first of several `passes` at other speeds."""
    model, own = bundle.encoder_decoder_model, targets == "own"
    key = memories_key(model, data, not own, passes, seed)
    if file is not None and file.exists():
        return read_memories(file, key)
    utterances = [u for directory in data for u in directory.utterances]
    texts = None if own else [model.transcript(u.text or "") for u in utterances]
    total = passes * len(utterances)
    items: list[EncodedUtterance] = []
    for again in range(passes):

        def passed(done: int, _: int, before: int = again * len(utterances)) -> None:
            note(before + done, total)

        items += encode_utterances(model, utterances, texts, allow_pipes, note=passed, again=again, seed=seed)
    if file is not None:
        write_memories(file, items, key)
    return items


def memory_dev(bundle: Bundle, data: Sequence[DataDir], file: Path | None, allow_pipes: bool, note: Note) -> HeldOut:
    """The development set of a pretrained recogniser; outputs that reached their limit are left out."""
    model = bundle.encoder_decoder_model
    items = [i for i in memory_items(bundle, data, "own", file, allow_pipes, note) if i.ended and i.text]
    if not items:
        raise DataError("heads: no output of the development set ended by itself; check the data directory")
    prompts = prompts_of(model, items)
    limits = [model.limit(i.seconds) for i in items]
    transcripts = {u.id: u.text for directory in data for u in directory.utterances if u.text is not None}
    normalize = get_normalizer(bundle.normalizer)

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        pairs = ((item, row) for item, row in zip(items, found) if item.id in transcripts)
        said = ((normalize(transcripts[i.id]).split(), normalize(model.decode(row)).split()) for i, row in pairs)
        return error_rate(said)

    known = prompts, [[*i.text, model.eos[0]] for i in items]
    errors = word_errors if transcripts else None
    return HeldOut(model.trunk, lambda: prompts_of(model, items), model.rules, limits, errors, known)
