"""`tune`: what is tried, what is kept of it, and a file that `compare` reads back."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import speechmtp
from speechmtp.cli.main import main
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.evaluation import comparison_files, tuning
from speechmtp.evaluation.comparison import recommend
from speechmtp.evaluation.selection import StrategySelection


@pytest.fixture
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two values of every option, one size of tree, no pictures."""
    grids = {name: {key: values[:1] for key, values in grid.items()} for name, grid in tuning.GRIDS.items()}
    monkeypatch.setattr(tuning, "GRIDS", grids | {"lookup": {"depth": (3, 10)}, "relaxed": {"theta": (0.0, 0.5)}})
    monkeypatch.setattr(tuning, "NODES", (8,))
    monkeypatch.setattr(comparison_files, "plot_comparison", lambda *_: "")


@pytest.mark.usefixtures("small_grids")
def test_everything_is_tuned_for_speech(spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf, common = tmp_path / "conf" / "decode.yaml", ["--threads", "1", "--out", str(tmp_path)]
    assert main(["tune", str(spoken), "--model", "an4", "--all", "--thetas", "0.9", "--conf", str(conf), *common]) == 0
    shown = capsys.readouterr().out
    rows, kept = json.loads((tmp_path / "tune.json").read_text()), yaml.safe_load(conf.read_text())
    tried, labels = [row["label"] for row in rows], kept["strategies"]
    assert kept["chosen_on"] == "dev" and labels[-1] == "transformers" and len(tried) == len(set(tried))
    names = {parse_strategy(label).name for label in labels[:-1]}
    without = {"draft-model", "joint-ratio", "thresholds", "ensemble", "previous", "previous-heads"}
    assert names == {*STRATEGIES, "speech-llama", "lookahead", "prompt-lookup"} - without
    assert {"verify:depth=3", "verify:depth=7", "ctc:mode=tree", "ctc:mode=whole", "ctc"} <= set(labels) and any(
        label.startswith("verify:") and "length=cost" in label for label in labels
    )
    assert set(labels[:-1]) <= {*tried, "oracle:depth=3", "oracle:depth=7"}
    assert len([label for label in labels if label.startswith("lookup")]) == 1 and "lookup:depth=3" in tried
    [tree] = [label for label in labels if label.startswith("tree")]
    assert len(parse_strategy(tree).options["paths"].split(".")) in (7, 8), "of 8 nodes one may help nothing"
    chosen = [row for row in rows if row["label"] in labels and row["exact"] and row["strategy"] != "ar"]
    assert kept["recommended"] == min(chosen, key=lambda row: row["seconds"])["label"]
    assert f"the fastest exact one: {kept['recommended']}" in shown
    selection = StrategySelection.parse(f"@{conf}")
    assert [s.label for s in selection.strategies(speechmtp.load("an4").runner, True)] == labels[:-1]
    assert selection.peers and not selection.every and selection.recommended == kept["recommended"]


@pytest.mark.usefixtures("small_grids")
def test_a_causal_lm_is_tuned_without_transcripts_and_compare_reads_it(
    text_lms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf, draft = tmp_path / "decode.yaml", ["--draft-model", str(text_lms / "draft")]
    common = [
        str(text_lms / "lines.txt"),
        "--model",
        str(text_lms / "lm"),
        *draft,
        "--prompt-tokens",
        "4",
        "--max-new-tokens",
        "6",
    ]
    common += ["--out", str(tmp_path)]
    assert main(["tune", *common, "--all", "--conf", str(conf)]) == 0
    kept = yaml.safe_load(conf.read_text())
    assert kept["chosen_on"] == "lines.txt" and parse_strategy(kept["recommended"]).exact
    names = {parse_strategy(label).name for label in kept["strategies"][:-1]}
    assert {"draft-model", "joint-ratio", "mtad", "lookup", "jacobi", "suffix"} <= names
    assert not names & {"ctc", "verify", "tree", "oracle", "medusa"}
    assert "ar: 5 texts as `ar`, 1.00 tokens a call" in capsys.readouterr().out
    assert main(["compare", *common, "--strategies", f"@{conf}"]) == 0
    rows = [r["label"] for r in json.loads((tmp_path / "compare.json").read_text())]
    peers = [f"transformers:{mode}" for mode in ("greedy", "prompt_lookup", "assistant")]
    assert rows == [*kept["strategies"][:-1], *peers]
    assert json.loads((tmp_path / "notes.json").read_text())["recommended"] == kept["recommended"]


def row(label: str, seconds: float, calls: float = 2.0, wer: float | None = 5.0, same: int = 9) -> dict[str, Any]:
    """A row of a comparison, as far as choosing looks at it."""
    if label.startswith("transformers"):
        name, options, exact = "transformers", {"mode": "greedy"}, True
    else:
        strategy = parse_strategy(label)
        name, options, exact = strategy.name, strategy.options, strategy.exact
    return {
        "strategy": name, "options": options, "label": label, "exact": exact, "seconds": seconds, "wer": wer,
        "tokens_per_call": calls, "trunk_calls": 0 if name == "ctc-only" else 10, "identical_to_ar": same,
    }  # fmt: skip


def test_the_recommended_row_is_the_fastest_exact_one() -> None:
    rows = [row("ar", 1.0), row("verify", 3.0), row("ctc", 2.5), row("oracle", 0.5), row("transformers:greedy", 0.9),
            row("threshold", 0.2), row("ctc-only", 0.1)]  # fmt: skip
    assert recommend(rows) == "ctc"
    assert recommend([r for r in rows if r["label"] not in ("verify", "ctc")]) is None
    tied = [row("verify", 2.0), row("ctc", 2.0) | {"trunk_calls": 4}]
    assert recommend(tied) == "ctc", "the one with fewer calls"


def chosen(rows: list[dict[str, Any]], loss: float = 0.3) -> list[str]:
    """Labels that are kept besides `ar`."""
    kept = [found["label"] for found in tuning.choose_best([row("ar", 9.0), *rows], loss)]
    assert kept[0] == "ar"
    return kept[1:]


def test_of_exact_kinds_the_fastest_is_kept() -> None:
    assert chosen([row("lookup:depth=3", 2.0), row("lookup:depth=10", 1.0)]) == ["lookup:depth=10"]
    verify = [row(f"verify:depth={depth}", seconds) for depth, seconds in ((1, 1.0), (3, 2.0), (5, 3.0), (7, 4.0))]
    assert chosen(verify) == ["verify:depth=1", "verify:depth=3", "verify:depth=7"]
    assert chosen([row("ctc", 2.0), row("ctc:mode=tree", 1.0)]) == ["ctc", "ctc:mode=tree"]
    heads = [row(f"verify:depth=3,heads={name}", 1.0) for name in "ab"]
    assert chosen(heads) == [found["label"] for found in heads]


def test_of_lossy_kinds_the_most_tokens_a_call_for_little_loss() -> None:
    rows = [row("top-k:k=2", 1.0, 3.0, 5.2), row("top-k:k=3", 1.0, 4.0, 5.31), row("top-k:k=4", 1.0, 3.5, 5.3)]
    assert chosen(rows) == ["top-k:k=4"]
    assert chosen(rows, 0.1) == ["top-k:k=2"], "none costs so little: that which costs least"
    texts = [row("top-k:k=2", 1.0, 3.0, None, 8), row("top-k:k=3", 1.0, 4.0, None, 7)]
    plain = row("ar", 9.0, wer=None)
    assert [found["label"] for found in tuning.choose_best([plain, *texts], 0.3)] == ["ar", "top-k:k=2"]


def test_what_is_tried_names_real_options() -> None:
    for name, grid in tuning.GRIDS.items():
        for key, values in grid.items():
            for value in values:
                assert parse_strategy(f"{name}:{key}={value}").options.get(key, "") == value
    assert set(tuning.GRIDS) <= {*STRATEGIES} - {*PRESETS}
