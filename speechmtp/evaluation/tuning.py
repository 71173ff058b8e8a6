"""Choose options of strategies on a development set: the candidates, and the best of each kind."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from speechmtp.config import write_yaml
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import Strategy, make_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.errors import ConfigError
from speechmtp.evaluation.comparison import recommend, run_comparison
from speechmtp.evaluation.evaluation_sets import EvaluationSet
from speechmtp.evaluation.selection import PEERS
from speechmtp.evaluation.settings import THETAS
from speechmtp.evaluation.tree_calibration import ROWS, calibrated_tree
from speechmtp.heads.contract import HeadSet
from speechmtp.progress import track
from speechmtp.types import CtcSource

# Options tried for each strategy, in every combination. Head sets, depths and trees come from the model.
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
NODES = (8, 16, 32, 64)  # sizes of calibrated trees


@dataclass(frozen=True)
class TuningConfig:
    """The candidates of a tuning and the rule of choice.

    `thetas` are the thresholds to try. Without `everything` only `ar`, `ctc`, `ctc-only`, `verify` and `threshold` are
    tried. With it, every strategy and preset that the model can run is tried, or only those in `names` and `ar`, to
    which all are compared. A lossy strategy may cost `loss` points of word error rate.
    """

    thetas: Sequence[float] = THETAS
    everything: bool = False
    names: Sequence[str] | None = None
    loss: float = 0.3

    def __post_init__(self) -> None:
        if self.names is not None and not self.everything:
            raise ConfigError("names=: goes with everything=True; give both")

    def takes(self, name: str) -> bool:
        """Whether a strategy of this name is tried."""
        return self.names is None or name == "ar" or name in self.names


@dataclass(frozen=True)
class Tuning:
    """The outcome of a tuning: all rows, the chosen rows, the labels to compare next (followed by the references), and
    the label of the fastest exact strategy (None if there is none)."""

    rows: list[dict[str, Any]]
    chosen: list[dict[str, Any]]
    strategies: list[str]
    recommended: str | None


def run_tuning(
    evaluation_set: EvaluationSet, config: TuningConfig | None = None, batch_size: int = 1, seed: int = 0
) -> Tuning:
    """Compare all candidates on a development set and choose the best of each kind (see `choose_best`)."""
    config = config or TuningConfig()
    runner = evaluation_set.runner
    candidates = basic_candidates(runner, evaluation_set.has_ctc, config)
    if config.everything:
        known = {s.label for s in candidates}
        further = {s.label: s for s in further_candidates(evaluation_set, config)}
        candidates += [s for label, s in further.items() if label not in known]
    rows = run_comparison(evaluation_set, candidates, batch_size, SamplingConfig(seed=seed), "tuning").rows
    chosen = choose_best(rows, config.loss)
    depth = _deepest(runner)
    labels = [row["label"] for row in chosen]
    labels += [make_strategy("oracle", {"depth": d}).label for d in sorted({min(3, depth), depth} - {0})]
    labels += [PEERS] * config.everything
    return Tuning(rows, chosen, labels, recommend(chosen))


def write_tuning(tuning: Tuning, config: TuningConfig, data: str | Path, folder: str | Path, conf: str | Path) -> None:
    """Write all rows to `folder`/tune.json, and to `conf` a YAML file of the chosen strategies, which
    `StrategySelection.parse` reads, with the name of the data."""
    out, conf = Path(folder), Path(conf)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tune.json").write_text(json.dumps(tuning.rows, indent=1) + "\n")
    conf.parent.mkdir(parents=True, exist_ok=True)
    written = {"chosen_on": Path(data).name, "loss": config.loss, "strategies": tuning.strategies}
    write_yaml(conf, written | ({"recommended": tuning.recommended} if tuning.recommended else {}))


def basic_candidates(runner: Runner, has_ctc: bool, config: TuningConfig) -> list[Strategy]:
    """Plain decoding, CTC, every head set at several depths, and thresholds on the default head set, prepared for the
    model. ConfigError for a threshold out of range."""
    return [runner.prepared(s) for s in _basic(runner, has_ctc, config.thetas) if config.takes(s.name)]


def _basic(runner: Runner, has_ctc: bool, thetas: Sequence[float]) -> Iterator[Strategy]:
    yield make_strategy("ar", {})
    for name in ("ctc", "ctc-only") if has_ctc else ():
        yield make_strategy(name, {})
    for heads, options in _head_options(runner):
        for d in [d for d in (1, 3, 5, 7) if d < heads.depth] + [heads.depth]:
            yield make_strategy("verify", {"depth": d, **options})
    depth = runner.heads_named().depth if runner.heads else 0
    for measure, theta in product(("token", "product"), thetas if depth else ()):
        yield make_strategy("threshold", {"depth": depth, "theta": theta, "measure": measure})


def _deepest(runner: Runner) -> int:
    return max((heads.depth for heads in runner.heads.values()), default=0)


def _head_options(runner: Runner) -> list[tuple[HeadSet, dict[str, str]]]:
    """Every head set with a depth above 0, and the option that selects it if there are several."""
    several = len(runner.heads) > 1
    return [(h, {"heads": name} if several else {}) for name, h in runner.heads.items() if h.depth]


def further_candidates(evaluation_set: EvaluationSet, config: TuningConfig) -> list[Strategy]:
    """The other candidates that the model can run and `config` includes: the grids, calibrated trees of every head set,
    and presets. For the trees, the evaluation set is decoded with `ar`."""
    runner = evaluation_set.runner
    found: list[Strategy] = []
    labelled = any(request.source(CtcSource) is not None for request in evaluation_set.requests.values())
    usable = {s.name for s in runner.usable(labelled)}
    trees = _trees(evaluation_set) if runner.heads else {}
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
    return [runner.prepared(s) for s in found if config.takes(s.name)]


def _trees(evaluation_set: EvaluationSet) -> dict[str, list[str]]:
    """For every head set, calibrated trees of several sizes, grown on the outputs of `ar` on the development set."""
    outputs: dict[str, list[int]] = {}
    for group in track(evaluation_set.batches(ROWS), "ar"):
        for name, result in zip(group, evaluation_set.decode(group, make_strategy("ar", {}))):
            outputs[name] = list(result.tokens)
    names = [name for name in evaluation_set.requests if outputs[name]]
    prompts, tokens = [evaluation_set.requests[n].prompt for n in names], [outputs[n] for n in names]
    runner = evaluation_set.runner
    return {
        name: [calibrated_tree(runner.trunk, heads, prompts, tokens, nodes).label for nodes in NODES]
        for name, heads in track(list(runner.heads.items()), "trees") if heads.depth
    }  # fmt: skip


def choose_best(rows: list[dict[str, Any]], loss: float) -> list[dict[str, Any]]:
    """Choose the best rows of a tuning; ConfigError without a row of `ar`.

    Of each exact kind it is the fastest row, for `verify` also depth 3 and the full depth. Of each lossy kind it is the
    row with the most tokens per call among those that cost at most `loss` points of WER, or the row with the lowest WER
    if none does; without transcripts it is the row with the most texts equal to those of `ar`.
    """
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
    chosen: list[dict[str, Any]] = []
    for kind, group in kinds.items():
        if group[0]["exact"]:
            best = [min(group, key=lambda row: row["seconds"])]
            if kind[0] == "verify" and kind[2] is None and not kind[5]:
                depths = [row["options"]["depth"] for row in group]
                best += [r for r in group if r["options"]["depth"] in (3, max(depths)) and r is not best[0]]
            chosen += sorted(best, key=lambda row: row["options"].get("depth", 0))
        else:
            chosen.append(_best_lossy(group, plain, loss))
    order = list(dict.fromkeys(row["strategy"] for row in rows))
    return sorted(chosen, key=lambda row: order.index(row["strategy"]))


def _best_lossy(group: list[dict[str, Any]], plain: Mapping[str, Any], loss: float) -> dict[str, Any]:
    if plain["wer"] is None:  # no transcripts: most texts equal to `ar`'s, then speed
        return max(group, key=lambda row: (row["identical_to_ar"], row["tokens_per_call"] or 0.0))
    allowed = [r for r in group if r["wer"] <= plain["wer"] + loss] or sorted(group, key=lambda r: r["wer"])[:1]
    return max(allowed, key=lambda r: (r["tokens_per_call"] or 0.0, -r["wer"]))
