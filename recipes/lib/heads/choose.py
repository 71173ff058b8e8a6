"""Time of an update and learning rate of every head set, the latter chosen on the development set.

    choose.py run MODEL EXP --seconds 22     writes conf/chosen.yaml (lines that are there are kept)
    choose.py show NAME SECONDS              a training of so many seconds, as options of the command line

Seconds are CPU time of updates on one core, so that other work on the machine does not count. Each set is trained
for --seconds at every learning rate, and the rate with the fewest predicted calls on dev wins.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

CHOSEN = Path("conf/chosen.yaml")
RATES = (1e-3, 3e-3)
PROBE = 12  # updates that are timed, behind as many that are not


def sets(path: str = "conf/sets.txt") -> dict[str, list[str]]:
    """Options of every head set whose choice is its own, by name."""
    lines = [line.split() for line in Path(path).read_text().splitlines() if line.strip() and line[0] != "#"]
    return {name: options for name, base, *options in lines if base == "-"}


class Trials:
    """Short trainings on one model, whose prompts and development set are read once."""

    def __init__(self, model: str, exp: Path) -> None:
        from speechmtp.bundle import load_bundle
        from speechmtp.data.kaldi import read_data_dir
        from speechmtp.training.tasks.head_inputs.features import feature_data, feature_dev

        self.bundle = load_bundle(model)
        config = self.config(["--family", "linear"])
        self.data = feature_data(
            self.bundle,
            read_data_dir(os.environ["TRAIN_DIR"]),
            config,
            exp / "prompts_own.safetensors",
            False,
            lambda *_: None,
        )
        self.dev = feature_dev(self.bundle, read_data_dir(os.environ["DEV_DIR"]), False)

    def config(self, options: list[str]) -> Any:
        """The configuration that `speechmtp train heads` would have."""
        from speechmtp.cli.train_heads import add_heads_arguments, read_heads_config

        parser = argparse.ArgumentParser()
        add_heads_arguments(parser)
        words = ["--model", "-", "--out", "-", "--config", "conf/train.yaml", *options]
        return read_heads_config(parser.parse_args(words))

    def train(self, config: Any) -> dict[str, float]:
        """Development figures of one training."""
        import torch

        from speechmtp.heads.table import build_heads
        from speechmtp.training.tasks.asr import pick_precision
        from speechmtp.training.tasks.heads import train_heads

        trunk = self.bundle.model.trunk
        torch.manual_seed(config.seed)
        heads = build_heads(config.heads, trunk.shape)
        heads.start_from(trunk)
        precision = pick_precision(config.precision, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            return train_heads(config, trunk, heads, self.data, self.dev.figures, precision, Path(folder))

    def update_seconds(self, config: Any) -> float:
        """CPU seconds of one update."""
        import torch

        from speechmtp.heads.table import build_heads
        from speechmtp.training.loop import seed_step
        from speechmtp.training.optim import make_optimiser
        from speechmtp.training.tasks.asr import pick_precision
        from speechmtp.training.tasks.heads import HeadsPhase

        trunk = self.bundle.model.trunk
        heads = build_heads(config.heads, trunk.shape)
        heads.start_from(trunk)
        precision = pick_precision(config.precision, torch.device("cpu"))
        phase = HeadsPhase(config, "probe", 1, trunk, heads, self.data, self.dev.figures, precision, False)
        optimiser = make_optimiser(phase.parameters(), config.optim)
        for number in range(2 * PROBE):
            if number == PROBE:
                began = time.process_time()
            seed_step("probe", number)
            optimiser.zero_grad(set_to_none=True)
            batch = phase.batch(number)
            (phase.loss(batch, number)[0] / phase.weight(batch)).backward()
            optimiser.step()
        return (time.process_time() - began) / PROBE


def choose(trials: Trials, options: list[str], seconds: float) -> dict[str, Any]:
    """Time of an update and learning rate of one set."""
    config = trials.config(options)
    update = trials.update_seconds(config)
    steps = max(20, round(seconds / update))
    scores = {}
    for rate in RATES:
        short = replace(config, steps=steps, optim=replace(config.optim, lr=rate),
                        loop=replace(config.loop, evaluate_every=100000, save_every=100000))  # fmt: skip
        scores[rate] = trials.train(short)["score"]
    best = min(scores, key=lambda rate: scores[rate])
    return {"lr": best, "update_seconds": round(update, 4), "trial_steps": steps,
            "dev_calls_per_100_tokens": {rate: round(score, 2) for rate, score in scores.items()}}  # fmt: skip


def main() -> int:
    """Run or show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    run = kinds.add_parser("run")
    run.add_argument("model")
    run.add_argument("exp")
    run.add_argument("--seconds", type=float, default=22.0)
    show = kinds.add_parser("show")
    show.add_argument("name")
    show.add_argument("seconds", type=float)
    args = parser.parse_args()
    known: dict[str, Any] = yaml.safe_load(CHOSEN.read_text()) if CHOSEN.exists() else {}
    if args.kind == "show":
        if args.name not in known:
            print(f"{CHOSEN}: no line {args.name}; run the stage `choose`", file=sys.stderr)
            return 1
        line = known[args.name]
        steps = max(20, round(args.seconds / line["update_seconds"]))
        print(f"steps={steps} optim.lr={line['lr']} loop.evaluate_every={max(10, steps // 4)} loop.save_every={steps}")
        return 0
    import torch

    torch.set_num_threads(1)
    missing = {name: options for name, options in sets().items() if name not in known}
    trials = Trials(args.model, Path(args.exp)) if missing else None
    for name, options in missing.items():
        assert trials is not None
        known[name] = choose(trials, options, args.seconds)
        CHOSEN.write_text("# Written by choose.py.\n" + yaml.safe_dump(known, sort_keys=False))
        print(f"{name}: {known[name]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
