"""What heads are trained on where prompts are made of whole recordings: these, computed once, and texts behind them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir, Utterance
from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.errors import ConfigError, DataError
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.models.bases.contract import SpeechModel
from speechmtp.models.storage import weights_digest
from speechmtp.text.normalize import get_normalizer
from speechmtp.training.tasks.encoder_cache import heard_again
from speechmtp.training.tasks.head_bases import read_prompts, write_prompts
from speechmtp.training.tasks.head_data import HeardData, HeardText
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.training.tasks.trunk_loss import error_rate
from speechmtp.types import Request, stack_prompts

Note = Callable[[int, int], None]
TOGETHER = 16


def prompt_data(
    bundle: Bundle, data: DataDir, config: HeadsTrainConfig, file: Path | None, allow_pipes: bool, note: Note
) -> HeardData:
    """Training data; prompts are computed once and, with `file`, kept there. The last token of a prompt, the same in
    all of them, opens the text."""
    model = bundle.model
    if config.mode != "frozen":
        raise ConfigError(
            f"train heads: mode {config.mode}: prompts of {model.title} are made by its trunk as it is; use mode=frozen"
        )
    heard = [[u.id, u.text, u.audio, u.start, u.end, u.channel] for u in data.utterances]
    key = hashlib.sha256(
        json.dumps(
            [weights_digest(model.trunk), str(bundle.config), config.targets, config.passes, config.prompts_seed, heard]
        ).encode()
    ).hexdigest()  # fmt: skip
    _need(data)
    start_tokens = _listen(model, data.utterances[:1], allow_pipes)[0].ids[-1]
    items = None if file is None or not file.exists() else read_prompts(file, key)
    if items is None:
        requests = _listen(model, data.utterances, allow_pipes, config.passes, config.prompts_seed, note)
        own = [_ended(row, model) for row in said(model, requests)] if config.targets == "own" else None
        texts = [model.transcript(u.text or "") for u in data.utterances] * config.passes if own is None else own
        items = [_item(request, text) for request, text in zip(requests, texts) if text]
        if not items:
            raise _nothing(data)
        if file is not None:
            write_prompts(file, items, key)
    return HeardData(model.trunk, items, config.rows, start_tokens, model.eos[0], config.seed)


def prompt_dev(bundle: Bundle, data: DataDir, allow_pipes: bool) -> HeldOut:
    """The development set."""
    model, normalize = bundle.model, get_normalizer(bundle.normalizer)
    _need(data)
    requests = _listen(model, data.utterances, allow_pipes)
    prompts = [request.prompt for request in requests]

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        pairs = zip(data.utterances, found)
        return error_rate((normalize(u.text or "").split(), normalize(model.decode(row)).split()) for u, row in pairs)

    return HeldOut(model.trunk, lambda: prompts, model.rules, [_limit(one) for one in requests], word_errors)


@torch.no_grad()
def _listen(
    model: SpeechModel, utterances: Sequence[Utterance], allow_pipes: bool, passes: int = 1, seed: int = 0,
    note: Note = lambda done, total: None,
) -> list[Request]:  # fmt: skip
    """A request for each utterance in each of several passes, all but the first at other speeds."""
    found: list[Request] = []
    for again in range(passes):
        for utterance in utterances:
            found.append(model.listen(heard_again(model, utterance, allow_pipes, again, seed)))
            note(len(found), passes * len(utterances))
    return found


def said(model: SpeechModel, requests: Sequence[Request]) -> list[list[int]]:
    """What `ar` says to each request, end tokens included."""
    found: list[list[int]] = []
    for start in range(0, len(requests), TOGETHER):
        group = requests[start : start + TOGETHER]
        limits = [_limit(request) for request in group]
        found += plain_outputs(model.trunk, stack_prompts([request.prompt for request in group]), model.rules, limits)
    return found


def _limit(request: Request) -> int:
    """The most tokens of a request, by the length of its prompt where it has no limit of its own."""
    return Limits().of(int(request.prompt.lengths[0])) if request.limit is None else request.limit


def _need(data: DataDir) -> None:
    if not data.utterances:
        raise _nothing(data)


def _nothing(data: DataDir) -> DataError:
    return DataError(f"{data.path}: no utterance to train heads on; check the data directory")


def _ended(row: list[int], model: SpeechModel) -> list[int]:
    """An output without its end token; nothing where it never ended: a runaway teaches repetitions."""
    return row[:-1] if row and row[-1] in model.eos else []


def _item(request: Request, text: list[int]) -> HeardText:
    """All of a prompt but its last token, at whose position the text opens."""
    prompt = request.prompt
    embeddings, positions = prompt.embeddings[0, :-1].cpu().clone(), prompt.positions[0, :-1].cpu().clone()
    return HeardText(embeddings, positions, int(prompt.positions[0, -1]), text)
