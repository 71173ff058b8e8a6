"""Training input of heads for encoder-decoder models: encoder outputs of utterances and their texts."""

from collections.abc import Sequence
from pathlib import Path

from speechmtp.bundle import Bundle
from speechmtp.data.kaldi import DataDir
from speechmtp.errors import DataError
from speechmtp.evaluation.held_out import HeldOut
from speechmtp.text.normalize import get_normalizer
from speechmtp.training.error_rate import error_rate
from speechmtp.training.tasks.encoded_utterances import EncodedUtterances, encoded_utterances, prompts_of
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, Note
from speechmtp.training.tasks.heads import HeadsTrainConfig


def utterance_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set from data directories; encoder outputs of the latter are stored in a file
    `dev_...` next to the cache of the former."""
    train, dev = asked.directories(need_text=asked.config.targets == "text")
    file = asked.cache
    dev_file = None if file is None else file.with_name(f"dev_{file.name}")
    held_out = utterance_dev(asked.bundle, [dev], dev_file, asked.allow_pipes, note)
    return utterance_data(asked.bundle, [train], asked.config, file, asked.allow_pipes, note), held_out


def utterance_data(
    bundle: Bundle, data: Sequence[DataDir], config: HeadsTrainConfig, file: Path | None, allow_pipes: bool, note: Note
) -> EncodedUtterances:
    """Build the training data; encoder outputs are computed once and, with `file`, stored there."""
    items = encoded_utterances(
        bundle, data, config.targets, file, allow_pipes, note, config.passes, config.prompts_seed
    )  # fmt: skip
    return EncodedUtterances(bundle.encoder_decoder_model, items, config.rows, config.seed)


def utterance_dev(
    bundle: Bundle, data: Sequence[DataDir], file: Path | None, allow_pipes: bool, note: Note
) -> HeldOut:  # fmt: skip
    """Build the development set without outputs that are empty or have no end token. DataError if none is left."""
    model = bundle.encoder_decoder_model
    items = [i for i in encoded_utterances(bundle, data, "own", file, allow_pipes, note) if i.ended and i.text]
    if not items:
        raise DataError("heads: no output of the development set ended by itself; check the data directory")
    prompts = prompts_of(model, items)
    limits = [model.limit(i.seconds) for i in items]
    transcripts = {u.id: u.text for directory in data for u in directory.utterances if u.text is not None}
    normalize = get_normalizer(bundle.normalizer)

    def word_errors(found: Sequence[Sequence[int]]) -> float:
        pairs = ((item, row) for item, row in zip(items, found) if item.id in transcripts)
        words = ((normalize(transcripts[i.id]).split(), normalize(model.decode(row)).split()) for i, row in pairs)
        return error_rate(words)

    known = prompts, [[*i.text, model.eos[0]] for i in items]
    errors = word_errors if transcripts else None
    return HeldOut(model.trunk, lambda: prompts_of(model, items), model.rules, limits, errors, known)
