"""Training input of heads for speechmtp's own speech LLMs: audio prompts, augmented in all passes but the first."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from speechmtp.batching import batches_by_size
from speechmtp.bundle import Bundle
from speechmtp.data.batch import seeded
from speechmtp.data.kaldi import DataDir
from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.models.adapter import AudioPrompt
from speechmtp.models.encoder_lm import EncoderLM
from speechmtp.models.storage import weights_digest
from speechmtp.training.error_rate import error_rate
from speechmtp.training.tasks.asr import audio_data
from speechmtp.training.tasks.ctc import AudioData, AugmentConfig, augment, evaluation_batches
from speechmtp.training.tasks.encoder_cache import EncoderCache, audio_facts
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, Note
from speechmtp.training.tasks.head_inputs.encoded_prompts import EncodedPrompt, EncodedPrompts
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.types import Prompt, TokenRules

TOGETHER = 16  # utterances in one batch of the encoder, for each of which a speed is sampled


def feature_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set from transcribed data directories."""
    train, dev = asked.directories(need_text=True)
    held_out = feature_dev(asked.bundle, dev, asked.allow_pipes)
    return feature_data(asked.bundle, train, asked.config, asked.cache, asked.allow_pipes, note), held_out


def feature_data(
    bundle: Bundle, data: DataDir, config: HeadsTrainConfig, file: Path | None, allow_pipes: bool, note: Note
) -> EncodedPrompts:
    """Build the training data; prompts are computed once and, with `file`, stored there."""
    model, tokenizer = bundle.feature_model, bundle.feature_model.tokenizer

    def compute() -> list[EncodedPrompt]:
        audio = audio_data(data, model.features, bundle.normalizer, tokenizer, allow_pipes)
        own = config.targets == "own"
        return encode_prompts(
            model, audio, config.passes, config.augment, tokenizer.eos, own, config.prompts_seed, note
        )  # fmt: skip

    facts = [
        weights_digest(model), str(bundle.config), config.passes, config.targets, config.prompts_seed,
        str(config.augment), audio_facts(data.utterances, True),
    ]  # fmt: skip
    items = EncoderCache(file, EncodedPrompt, facts).get(compute)
    return EncodedPrompts(model.trunk, items, config.rows, tokenizer.bos, tokenizer.eos, config.seed)


@torch.no_grad()
def feature_dev(bundle: Bundle, data: DataDir, allow_pipes: bool) -> HeldOut:
    """Build the development set."""
    model, tokenizer = bundle.feature_model, bundle.feature_model.tokenizer
    audio = audio_data(data, model.features, bundle.normalizer, tokenizer, allow_pipes)
    device = model.encoder.mean.device
    encoded: list[AudioPrompt] = []
    names: list[str] = []
    for batch in evaluation_batches(audio):
        out = model.encode_audio(batch.frames.to(device), batch.lengths.to(device))
        encoded.append(model.adapter(model.adapter.segments(out)))
        names += batch.ids

    @torch.no_grad()
    def prompts() -> list[Prompt]:  # computed at each call, since training may change the start token's embedding
        return [p.row(i) for p in map(model.close_prompt, encoded) for i in range(len(p.lengths))]

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        outputs = (tokenizer.decode([t for t in row if t != tokenizer.eos]).split() for row in found)
        return error_rate((tokenizer.decode(audio.tokens[n]).split(), words) for n, words in zip(names, outputs))

    return HeldOut(model.trunk, prompts, model.rules, Limits(), word_errors)


@torch.no_grad()
def encode_prompts(
    model: EncoderLM, data: AudioData, passes: int, settings: AugmentConfig, eos: int, own: bool, seed: int,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> list[EncodedPrompt]:  # fmt: skip
    """Compute the prompts of all utterances, once as recorded and then `passes` - 1 times augmented.

    Texts are the transcripts or, with `own`, the model's own output after each prompt (self-distillation: the heads
    learn the distribution that will verify them).
    """
    random = seeded("head-prompts", seed)
    generator = torch.Generator().manual_seed(seed)
    names = sorted(data.tokens)
    groups = batches_by_size([data.durations[name] for name in names], TOGETHER)
    device = model.encoder.mean.device
    found: list[EncodedPrompt] = []
    model.eval()
    for number in range(passes):
        for group in groups:
            speeds = random.choice((0.9, 1.0, 1.1), TOGETHER) if number else [1.0] * TOGETHER
            batch = data.collate((names[i], float(s)) for i, s in zip(group, speeds))
            frames = (batch.frames - model.encoder.mean.cpu()) / model.encoder.std.cpu()
            if number:
                frames = augment(frames, batch.lengths, settings, generator)
            out = model.encoder(frames.to(device), batch.lengths.to(device), 0, normalised=True)
            audio = model.adapter(model.adapter.segments(out))
            texts = [data.tokens[name] for name in batch.ids]
            if own:
                outputs = plain_outputs(model.trunk, model.close_prompt(audio), TokenRules((eos,)))
                texts = [[t for t in row if t != eos] for row in outputs]
            found += _split_rows(audio, texts)
            note(len(found), passes * len(names))
    return found


def _split_rows(audio: AudioPrompt, texts: Sequence[list[int]]) -> list[EncodedPrompt]:
    """The prompts of a batch without padding."""
    lengths = audio.lengths.tolist()
    starts = audio.text_position.tolist()
    return [
        EncodedPrompt(audio.embeddings[i, :n].cpu().clone(), audio.positions[i, :n].cpu().clone(), starts[i], text)
        for i, (n, text) in enumerate(zip(lengths, texts))
    ]
