"""Training input of heads for models that read a recording as a prompt (Qwen2-Audio): the prompts and their texts."""

from collections.abc import Sequence
from pathlib import Path

import torch

from speechmtp.batching import ROWS
from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.errors import ConfigError, DataError
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.heads.folder import trunk_settings
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.storage import weights_digest
from speechmtp.text.normalize import get_normalizer
from speechmtp.training.error_rate import error_rate
from speechmtp.training.tasks.encoded_utterances import load_samples
from speechmtp.training.tasks.encoder_cache import EncoderCache, audio_facts
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, Note
from speechmtp.training.tasks.head_inputs.encoded_prompts import EncodedPrompt, EncodedPrompts
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.types import Request, stack_prompts


def prompt_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set from data directories."""
    train, dev = asked.directories(need_text=asked.config.targets == "text")
    held_out = prompt_dev(asked.bundle, dev, asked.allow_pipes)
    return prompt_data(asked.bundle, train, asked.config, asked.cache, asked.allow_pipes, note), held_out


def prompt_data(
    bundle: Bundle, data: DataDir, config: HeadsTrainConfig, file: Path | None, allow_pipes: bool, note: Note
) -> EncodedPrompts:
    """Build the training data; prompts are computed once and, with `file`, stored there. The last token of a prompt,
    which is the same for all utterances, is the start token of the text. ConfigError for a mode that trains the trunk,
    DataError if no utterance has a text."""
    model = bundle.model
    if config.mode != "frozen":
        raise ConfigError(
            f"heads: mode {config.mode}: prompts of {model.title} are made by its trunk as it is; use mode=frozen"
        )
    _check_utterances(data)
    start_token = make_requests(model, data.utterances[:1], allow_pipes)[0].ids[-1]

    def compute() -> list[EncodedPrompt]:
        requests = make_requests(model, data.utterances, allow_pipes, config.passes, config.prompts_seed, note)
        texts = [model.transcript(u.text or "") for u in data.utterances] * config.passes
        if config.targets == "own":
            texts = [_ended_text(row, model) for row in greedy_outputs(model, requests)]
        items = [_encoded_prompt(request, text) for request, text in zip(requests, texts) if text]
        if not items:
            raise _no_utterance(data)
        return items

    facts = [
        weights_digest(model.trunk), trunk_settings(model), str(bundle.config), config.targets, config.passes,
        config.prompts_seed, audio_facts(data.utterances, True),
    ]  # fmt: skip
    items = EncoderCache(file, EncodedPrompt, facts).get(compute)
    return EncodedPrompts(model.trunk, items, config.rows, start_token, model.eos[0], config.seed)


def prompt_dev(bundle: Bundle, data: DataDir, allow_pipes: bool) -> HeldOut:
    """Build the development set."""
    model, normalize = bundle.model, get_normalizer(bundle.normalizer)
    _check_utterances(data)
    requests = make_requests(model, data.utterances, allow_pipes)
    prompts = [request.prompt for request in requests]

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        pairs = zip(data.utterances, found)
        return error_rate((normalize(u.text or "").split(), normalize(model.decode(row)).split()) for u, row in pairs)

    return HeldOut(model.trunk, lambda: prompts, model.rules, [_limit(one) for one in requests], word_errors)


@torch.no_grad()
def make_requests(
    model: SpeechModel, utterances: Sequence[Utterance], allow_pipes: bool, passes: int = 1, seed: int = 0,
    note: Note = lambda done, total: None,
) -> list[Request]:  # fmt: skip
    """Build a request for each utterance in each of several passes, all but the first at other speeds."""
    found: list[Request] = []
    for number in range(passes):
        for utterance in utterances:
            found.append(model.listen(load_samples(model, utterance, allow_pipes, number, seed)))
            note(len(found), passes * len(utterances))
    return found


def greedy_outputs(model: SpeechModel, requests: Sequence[Request]) -> list[list[int]]:
    """The output of plain decoding (`ar`) for each request, including end tokens."""
    found: list[list[int]] = []
    for start in range(0, len(requests), ROWS):
        group = requests[start : start + ROWS]
        limits = [_limit(request) for request in group]
        found += plain_outputs(model.trunk, stack_prompts([request.prompt for request in group]), model.rules, limits)
    return found


def _limit(request: Request) -> int:
    """The largest number of tokens of a request, by the length of its prompt where it has no limit of its own."""
    return Limits().of(int(request.prompt.lengths[0])) if request.limit is None else request.limit


def _check_utterances(data: DataDir) -> None:
    if not data.utterances:
        raise _no_utterance(data)


def _no_utterance(data: DataDir) -> DataError:
    return DataError(f"{data.path}: no utterance to train heads on; check the data directory")


def _ended_text(row: list[int], model: SpeechModel) -> list[int]:
    """An output without its end token; empty if it has none, since outputs that were cut off teach repetitions."""
    return row[:-1] if row and row[-1] in model.eos else []


def _encoded_prompt(request: Request, text: list[int]) -> EncodedPrompt:
    """A prompt without its last token, at whose position the text starts."""
    prompt = request.prompt
    embeddings, positions = prompt.embeddings[0, :-1].cpu().clone(), prompt.positions[0, :-1].cpu().clone()
    return EncodedPrompt(embeddings, positions, int(prompt.positions[0, -1]), text)
