"""choose thresholds, depths, trees and sizes on a development set and store the strategies to compare"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmtp.cli.options import add_data_options, add_draft_options, add_run_options, add_text_options
from speechmtp.errors import ConfigError
from speechmtp.models.bases.names import MODEL

if TYPE_CHECKING:
    from speechmtp.decoding.runner import Runner
    from speechmtp.decoding.strategies import Strategy
    from speechmtp.evaluation.evaluation_sets import Subject

THETAS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
# What is tried of each strategy: every combination; one is kept. Head sets, depths and trees come from the model.
GRIDS: dict[str, dict[str, Sequence[Any]]] = {
    "dynamic-tree": {"width": (2, 4), "nodes": (8, 16, 24)},
    "draft-model": {"depth": (2, 3, 5, 7, 10)},
    "ctc": {"mode": ("recycle",)},
    "ctc-heads": {"theta": (0.8, 0.9, 0.98), "mode": ("recycle", "tree"), "labels": ("", 8)},
    "lookup": {"depth": (3, 10), "longest": (2, 3, 4)},
    "suffix": {"factor": (1.0, 2.0), "least": (0.1, 0.3)},
    "jacobi": {"window": (4, 7, 10), "ngram": (3, 5), "guesses": (4, 7)},
    "marginal": {"depth": (1, 2), "top": (4, 8)},
    "typical": {"epsilon": (0.09, 0.3), "delta": (0.1, 0.3)},
    "relaxed": {"theta": (0.1, 0.2, 0.3, 0.5)},
    "top-k": {"k": (2, 3)},
    "distance": {"most": (1,)},
    "min-block": {"least": (1, 2)},
    "groups": {"similarity": (0.4, 0.6, 0.8)},
    "window": {"size": (2, 3), "entropy": (0.1, 0.3)},
    "joint-ratio": {"depth": (4, 7), "tau": (0.1, 0.5, 0.9)},
    "mtjd": {"depth": (2,), "top": (8,)},
}
MODES = ("whole", "resume", "tree")  # of `ctc`, a row each
NODES = (8, 16, 32, 64)  # of calibrated trees


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `speechmtp tune`."""
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("data_dir", metavar="DEV", help="development data directory; for a text LM a text file")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for tune.json")
    parser.add_argument("--conf", required=True, metavar="YAML", help="written: the strategies with their options")
    parser.add_argument("--loss", type=float, default=0.3, metavar="POINTS",
                        help="WER that a lossy strategy may cost on the development set (default 0.3)")  # fmt: skip
    parser.add_argument("--thetas", type=float, nargs="+", default=list(THETAS), metavar="T",
                        help="thresholds to try (default: %(default)s)")  # fmt: skip
    parser.add_argument("--all", action="store_true", help="every strategy and preset that the model can run, not only "
                        "ar, verify, threshold and ctc")  # fmt: skip
    parser.add_argument("--strategies", metavar="LIST", help="with --all: these names only (default: all that can run)")
    add_run_options(parser)
    add_draft_options(parser)
    add_data_options(parser)
    add_text_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compares all candidates, keeps the best of each kind, writes both files."""
    from speechmtp.config import write_yaml
    from speechmtp.decoding.sampling import SamplingConfig
    from speechmtp.decoding.strategies import make_strategy
    from speechmtp.evaluation.comparison import PEERS, recommend, run_comparison
    from speechmtp.evaluation.evaluation_sets import open_subject

    wanted = _names(args)

    def basic(runner: "Runner", ctc: bool) -> list["Strategy"]:
        return [runner.prepared(s) for s in _basic(runner, ctc, args.thetas) if wanted is None or s.name in wanted]

    subject, candidates = open_subject(args, basic)
    if args.all:
        candidates += _further(subject, {c.label for c in candidates}, wanted)
    rows = run_comparison(subject, candidates, args.batch_size, SamplingConfig(seed=args.seed), "tuning").rows
    chosen = _choose(rows, args.loss)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tune.json").write_text(json.dumps(rows, indent=1) + "\n")
    depth = _deepest(subject.runner)
    labels = [row["label"] for row in chosen]
    labels += [make_strategy("oracle", {"depth": d}).label for d in sorted({min(3, depth), depth} - {0})]
    labels += [PEERS] * args.all
    conf = Path(args.conf)
    conf.parent.mkdir(parents=True, exist_ok=True)
    written = {"chosen_on": Path(args.data_dir).name, "loss": args.loss, "strategies": labels}
    best = recommend(chosen)
    write_yaml(conf, written | ({"recommended": best} if best else {}))
    for row in chosen:
        calls = f", {row['tokens_per_call']:.2f} tokens a call" if row["tokens_per_call"] else ""
        error = f"WER {row['wer']:.2f}" if row["wer"] is not None else f"{row['identical_to_ar']} texts as `ar`"
        print(f"{row['label']}: {error}{calls}, {row['seconds']:.2f} s")
    print(f"strategies: {conf}" + (f"; the fastest exact one: {best}" if best else ""))
    return 0


def _names(args: argparse.Namespace) -> set[str] | None:
    """What --strategies lists, with `ar`, which all are compared with; None for everything."""
    from speechmtp.decoding.strategies import parse_strategy

    if args.strategies is None:
        return None
    if not args.all:
        raise ConfigError(f"--strategies {args.strategies}: goes with --all; add it")
    return {"ar", *(parse_strategy(name).name for name in args.strategies.split(","))}


def _deepest(runner: "Runner") -> int:
    return max((heads.depth for heads in runner.heads.values()), default=0)


def _basic(runner: "Runner", ctc: bool, thetas: Sequence[float]) -> Iterator["Strategy"]:
    """Plain decoding, CTC, every head set at several depths, and thresholds on the default one."""
    from speechmtp.decoding.strategies import make_strategy

    yield make_strategy("ar", {})
    for name in ("ctc", "ctc-only") if ctc else ():
        yield make_strategy(name, {})
    for heads, options in _head_options(runner):
        for d in [d for d in (1, 3, 5, 7) if d < heads.depth] + [heads.depth]:
            yield make_strategy("verify", {"depth": d, **options})
    depth = runner.heads_named().depth if runner.heads else 0
    for measure, theta in product(("token", "product"), thetas if depth else ()):
        yield make_strategy("threshold", {"depth": depth, "theta": theta, "measure": measure})


def _head_options(runner: "Runner") -> list[tuple[Any, dict[str, str]]]:
    """Every head set of some depth, and what names it where there are several."""
    several = len(runner.heads) > 1
    return [(h, {"heads": name} if several else {}) for name, h in runner.heads.items() if h.depth]


def _further(subject: "Subject", known: set[str], wanted: set[str] | None) -> list["Strategy"]:
    """All else that the model can run and is `wanted` (None: all): the grids, calibrated trees of every head set, and
    presets."""
    from speechmtp.decoding.presets import PRESETS
    from speechmtp.decoding.strategies import make_strategy
    from speechmtp.decoding.strategy_table import STRATEGIES
    from speechmtp.types import CtcSource

    runner, found = subject.runner, []
    usable = {s.name for s in runner.usable(any(r.source(CtcSource) is not None for r in subject.requests.values()))}
    trees = _trees(subject) if runner.heads else {}
    for name, grid in GRIDS.items():
        if name in usable:
            found += [make_strategy(name, dict(zip(grid, values))) for values in product(*grid.values())]
    found += [make_strategy("ctc", {"mode": mode}) for mode in MODES if "ctc" in usable]
    adapting: list[dict[str, Any]] = [
        {"length": "running"},
        {"length": "cost"},
        *({"theta": t} for t in (0.1, 0.2, 0.3, 0.5, 0.8)),
    ]
    found += [make_strategy("verify", options) for options in adapting if runner.heads]
    for heads, shapes in trees.items():
        options = {"heads": heads} if len(trees) > 1 else {}
        found += [make_strategy("tree", {"paths": paths, **options}) for paths in shapes]
    for name in PRESETS:
        if name in usable:
            whole = runner.prepared(make_strategy(name, {}))
            own = trees.get(whole.heads) if "paths" in whole.options else None
            found += [make_strategy(name, {**whole.given, "paths": paths}) for paths in own or ()] or [whole]
    assert all(s.name in STRATEGIES or s.name in PRESETS for s in found)
    found = [s for s in found if wanted is None or s.name in wanted]
    prepared = {s.label: s for s in map(runner.prepared, found)}
    return [s for label, s in prepared.items() if label not in known]


def _trees(subject: "Subject") -> dict[str, list[str]]:
    """For every head set trees of several sizes, grown from how often its choices are right on the development set."""
    from speechmtp.decoding.strategies import make_strategy
    from speechmtp.evaluation.comparison import grouped
    from speechmtp.evaluation.tree_calibration import calibrated_tree
    from speechmtp.progress import track

    said: dict[str, list[int]] = {}
    for group in track(list(grouped(subject, 16)), "ar"):
        for name, result in zip(group, subject.decode(group, make_strategy("ar", {}))):
            said[name] = list(result.tokens)
    names = [name for name in subject.requests if said[name]]
    prompts, tokens = [subject.requests[n].prompt for n in names], [said[n] for n in names]
    runner = subject.runner
    return {
        name: [calibrated_tree(runner.trunk, heads, prompts, tokens, nodes).label for nodes in NODES]
        for name, heads in track(list(runner.heads.items()), "trees") if heads.depth
    }  # fmt: skip


def _choose(rows: list[dict[str, Any]], loss: float) -> list[dict[str, Any]]:
    """Of each kind of exact strategy the fastest, `verify` at depth 3 and at the full depth too; of each lossy kind the
    one with the most tokens a call among those that cost at most `loss` points of WER, or change the fewest texts."""
    plain = next((row for row in rows if row["strategy"] == "ar"), None)
    if plain is None:
        raise ConfigError("tune: no row of `ar`, expected one")
    kinds: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        options = row["options"]
        kind = (
            row["strategy"], options.get("heads"), options.get("length"),
            options.get("measure") if row["strategy"] == "threshold" else None,
            options.get("mode") if row["strategy"] == "ctc" else None,
            "theta" in options if row["strategy"] == "verify" else None,
        )  # fmt: skip
        kinds.setdefault(kind, []).append(row)
    kept: list[dict[str, Any]] = []
    for kind, group in kinds.items():
        if group[0]["exact"]:
            best = [min(group, key=lambda row: row["seconds"])]
            if kind[0] == "verify" and kind[2] is None and not kind[5]:
                depths = [row["options"]["depth"] for row in group]
                best += [r for r in group if r["options"]["depth"] in (3, max(depths)) and r is not best[0]]
            kept += sorted(best, key=lambda row: row["options"].get("depth", 0))
        else:
            kept.append(_best_lossy(group, plain, loss))
    order = list(dict.fromkeys(row["strategy"] for row in rows))
    return sorted(kept, key=lambda row: order.index(row["strategy"]))


def _best_lossy(group: list[dict[str, Any]], plain: Mapping[str, Any], loss: float) -> dict[str, Any]:
    if plain["wer"] is None:  # no transcripts: as near to `ar` as it gets, then fast
        return max(group, key=lambda row: (row["identical_to_ar"], row["tokens_per_call"] or 0.0))
    allowed = [r for r in group if r["wer"] <= plain["wer"] + loss] or sorted(group, key=lambda r: r["wer"])[:1]
    return max(allowed, key=lambda r: (r["tokens_per_call"] or 0.0, -r["wer"]))
