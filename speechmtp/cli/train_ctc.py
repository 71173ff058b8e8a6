"""`train ctc`: a CTC draft head of characters, on the encoder of a pretrained recogniser"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechmtp.cli.options import add_model_option, add_out_option, add_training_options
from speechmtp.models.bases.names import ENCODER_DECODER_MODEL

if TYPE_CHECKING:
    from speechmtp.bundle import Bundle
    from speechmtp.training.tasks.character_ctc import CharacterCtcTrainConfig
    from speechmtp.training.tasks.encoded_utterances import EncodedUtterance


def add_ctc_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp train ctc`."""
    add_model_option(parser, ENCODER_DECODER_MODEL, required=True)
    add_out_option(parser, "folder of the head; a model's own is MODEL/ctc")
    parser.add_argument("--config", metavar="YAML", help="training configuration (default: built-in values)")
    parser.add_argument("--train", required=True, metavar="DATA", help="Kaldi data directory to train on")
    parser.add_argument("--dev", required=True, metavar="DATA", help="the same, to choose checkpoints on")
    parser.add_argument("--prompts", metavar="FILE", help="store encoder outputs here, as `train heads` does")
    add_training_options(parser)


def run_ctc(args: argparse.Namespace) -> int:
    """Trains the head and writes its folder."""
    import torch

    from speechmtp.bundle import WEIGHTS, load_without_heads
    from speechmtp.cli.train_heads import TRAIN, check_training, data_facts
    from speechmtp.config import from_dict, read_yaml, with_overrides
    from speechmtp.heads.folder import encoder_digest, encoder_settings, save_ctc_head
    from speechmtp.models.bases.table import expect
    from speechmtp.models.character_ctc import CharacterCtcHead
    from speechmtp.models.storage import file_digest
    from speechmtp.training.inputs import check_inputs, keep_inputs
    from speechmtp.training.loop import run_phase
    from speechmtp.training.tasks.asr import pick_precision
    from speechmtp.training.tasks.character_ctc import (
        CharacterCtcPhase,
        CharacterCtcTrainConfig,
        character_texts,
        frequent_characters,
    )

    data = read_yaml(args.config) if args.config else {}
    config = from_dict(CharacterCtcTrainConfig, with_overrides(data, args.overrides), args.config or "train ctc")
    check_training(args)
    out, device = Path(args.out), torch.device(args.device)
    bundle = load_without_heads(args.model).to(device, torch.float32)
    expect(bundle.model, "encoder_outputs")
    inputs = data_facts(args, bundle, {"train data": args.train, "dev data": args.dev})
    check_inputs(out, TRAIN, config, inputs)
    train, dev = (character_texts(items, bundle.model.decode) for items in _utterances(args, config, bundle))
    sizes = replace(
        config.ctc,
        characters=config.ctc.characters or frequent_characters(train),
        memory_width=train[0].memory.shape[1],
    )
    torch.manual_seed(config.seed)
    ctc = CharacterCtcHead(sizes).to(device)
    keep_inputs(out, TRAIN, config, inputs)
    phase = CharacterCtcPhase(config, ctc, train, dev, pick_precision(config.precision, device))
    figures = run_phase(phase, out / "training", config.loop, config.seed, args.resume)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
    card = _card(args, ctc, config, figures)
    digests = encoder_digest(bundle.model), file_digest(bundle.folder / WEIGHTS)
    settings = encoder_settings(bundle.model)
    save_ctc_head(ctc.eval(), out, bundle.name, digests[0], args.storage, card, digests[1], settings)
    print(f"ctc: {out}")
    return 0


def _utterances(
    args: argparse.Namespace, config: "CharacterCtcTrainConfig", bundle: "Bundle"
) -> "list[list[EncodedUtterance]]":  # fmt: skip
    """Encode the utterances of the training and development data."""
    from speechmtp.data.kaldi import read_data_dir
    from speechmtp.progress import counter
    from speechmtp.training.tasks.encoded_utterances import encoded_utterances

    prompts = Path(args.prompts) if args.prompts else None
    files = prompts, None if prompts is None else prompts.with_name(f"dev_{prompts.name}")
    found = []
    with counter("audio") as note:
        for name, file, passes in zip((args.train, args.dev), files, (config.passes, 1)):
            data = read_data_dir(name, args.root, config.targets == "text", args.allow_pipes)
            found.append(
                encoded_utterances(
                    bundle, [data], config.targets, file, args.allow_pipes, note, passes, config.prompts_seed
                )
            )  # fmt: skip
    return found


def _card(
    args: argparse.Namespace, ctc: object, config: "CharacterCtcTrainConfig", figures: dict[str, float]
) -> str:  # fmt: skip
    lines = "\n".join(f"- {name}: {value:.2f}" for name, value in figures.items() if name != "score")
    return (
        f"# Card of a CTC draft head\n\nTrained by `speechmtp train ctc` on {Path(args.train).name} for {config.steps} "
        f"updates, targets {config.targets}, seed {config.seed}.\n\nDevelopment figures ({Path(args.dev).name}; error "
        f"rates in percent against what the recogniser itself says):\n{lines}\n"
    )
