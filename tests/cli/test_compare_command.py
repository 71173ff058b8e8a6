"""`compare`: every strategy beside transformers' own rows, for speech and text, greedy and drawn."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

from speechmtp.bundle import load_bundle
from speechmtp.cli.main import main
from speechmtp.decoding.presets import PRESETS
from speechmtp.decoding.strategy_table import STRATEGIES
from speechmtp.evaluation import comparison, comparison_files
from speechmtp.evaluation.evaluation_sets import SpeechEvaluationSet
from speechmtp.evaluation.peers import peer_modes
from speechmtp.evaluation.tables import comparison_footnote
from speechmtp.heads.folder import save_heads
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.types import Result

Rows = dict[str, dict[str, Any]]


def compared(model: str | Path, data: Path, out: Path, strategies: str, *more: str, code: int = 0) -> Rows:
    """Rows of a comparison by label, in their order."""
    command = [
        "compare",
        str(data),
        "--model",
        str(model),
        "--strategies",
        strategies,
        "--threads",
        "1",
        "--out",
        str(out),
    ]
    assert main([*command, *more]) == code
    rows = json.loads((out / "compare.json").read_text())
    found = {row["label"]: row for row in rows}
    assert len(found) == len(rows), "every row once"
    return found


def notes(out: Path) -> dict[str, Any]:
    """What a comparison says beside its rows."""
    found: dict[str, Any] = json.loads((out / "notes.json").read_text())
    return found


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than the tiny comparisons themselves."""
    monkeypatch.setattr(comparison_files, "plot_comparison", lambda *_: "")


@pytest.fixture(scope="module")
def medusa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained residual heads with unembeddings of their own, in a folder `some`."""
    bundle = load_bundle("an4")
    torch.manual_seed(0)
    heads = build_heads(ResidualHeadsConfig(depth=4, unembedding="own"), bundle.model.trunk.shape)
    heads.start_from(bundle.model.trunk)
    folder = tmp_path_factory.mktemp("heads") / "some"
    save_heads(heads, folder, "an4", bundle.trunk_sha256, "float32")
    return folder


@pytest.fixture(scope="module")
def everything(spoken: Path, medusa: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Path]:
    """All that the embedded model can run, with a second head set."""
    out = tmp_path_factory.mktemp("all")
    return compared("an4", spoken, out, "all", "--heads", "latent", "--heads", str(medusa)), out


def test_all_is_every_row_and_preset_that_the_model_can_run(everything: tuple[Rows, Path]) -> None:
    rows, out = everything
    without = {"draft-model", "joint-ratio", "thresholds", "ensemble"}  # a draft model, and drawn tokens
    without |= {"previous", "previous-heads"}  # a pass before
    presets = {"medusa", "speech-llama", "lookahead", "prompt-lookup"}
    expected = [name for name in STRATEGIES if name not in without] + [name for name in PRESETS if name in presets]
    peers = [f"transformers:{mode}" for mode, why in own_modes().items() if why is None]
    assert [row["strategy"] for row in rows.values()] == [*expected, *["transformers"] * len(peers)]
    assert [label for label, row in rows.items() if row["strategy"] == "transformers"] == peers != []
    assert rows["medusa:heads=some"]["options"]["heads"] == "some", "found by its family, whatever its name"
    assert rows["speech-llama:heads=latent"]["options"]["depth"] == 3
    *older, note = notes(out)["peers"]  # an older transformers looks prompts up wrongly
    assert len(older) + len(peers) == 2 and all("prompt_lookup is left out" in one for one in older)
    assert note.startswith("transformers:assistant is left out: ") and "an audio prompt has none" in note


def own_modes() -> dict[str, str | None]:
    """What transformers' own generate can do behind prompts of embeddings."""
    return peer_modes(tiny.trunk(), True)


def test_exact_rows_say_what_ar_says_and_their_counts_agree(everything: tuple[Rows, Path]) -> None:
    rows, _ = everything
    plain = rows["ar"]
    assert plain["trunk_calls"] == plain["tokens"] > 20 and plain["speedup_vs_ar"] == 1.0
    for label, row in rows.items():
        if row["exact"]:
            assert (row["identical_to_ar"], row["differences"], row["wer"]) == (2, [], plain["wer"]), label
            assert row["tokens"] == plain["tokens"], label
        if row["trunk_calls"]:
            assert row["tokens_per_call"] == pytest.approx(row["tokens"] / row["trunk_calls"]), label
        rates = row["acceptance_per_position"] or []
        assert rates == sorted(rates, reverse=True) and all(0 <= rate <= 1 for rate in rates), label
        if row["exact"] and row["oracle_tokens_per_call"] and row["strategy"] != "oracle":
            assert row["tokens_per_call"] <= row["oracle_tokens_per_call"], label
    assert rows["oracle:depth=7"]["tokens_per_call"] == rows["oracle:depth=7"]["oracle_tokens_per_call"]
    assert rows["ctc-only"]["trunk_calls"] == 0 and rows["ctc-only"]["speedup_vs_ar"] is None
    own = rows["transformers:greedy"]
    assert (own["strategy"], own["options"], own["trunk_calls"]) == (
        "transformers",
        {"mode": "greedy"},
        plain["tokens"],
    )
    if own_modes()["prompt_lookup"] is None:
        assert rows["transformers:prompt_lookup"]["trunk_calls"] <= plain["tokens"]


def test_files_of_a_comparison(everything: tuple[Rows, Path]) -> None:
    rows, out = everything
    assert {p.name for p in out.iterdir()} == {
        "compare.json", "notes.json", "compare.md", "compare.png", "compare_seconds.png", "text",
    }  # fmt: skip
    page = (out / "compare.md").read_text()
    assert page.count("\n| ") == 1 + len(rows) and "transformers:assistant is left out" in page
    assert "paths=0" not in page and "Take" not in page
    folders = {p.name: (p / "text").read_text() for p in (out / "text").iterdir()}
    assert len(folders) == len(rows) and folders["medusa_heads=some"].count("\n") == 2
    assert folders["verify_depth=7"] == folders["ar"] == folders["transformers_greedy"]


def test_folders_of_large_trees_have_short_names_of_their_own() -> None:
    tree = ".".join("0" * n + end for n in range(9) for end in "0123456")
    names = comparison_files._folder_names(
        [f"tree:paths={tree}", f"tree:paths={tree[2:]}.9", "ar", f"tree:paths={tree[2:]}.8"]
    )
    assert names == ["tree_paths=63_nodes", "tree_paths=63_nodes_2", "ar", "tree_paths=63_nodes_3"]


@pytest.mark.usefixtures("no_pictures")
def test_a_file_names_strategies_and_the_recommended_one(spoken: Path, tmp_path: Path, failing: Any) -> None:
    conf = tmp_path / "decode.yaml"
    labels = ["ar", "tree:paths=0.1.00", "verify:depth=3", "verify:depth=3"]
    written = {"strategies": labels, "recommended": "tree:paths=0.1.00", "chosen_on": "dev"}
    conf.write_text(yaml.safe_dump(written))
    assert list(compared("an4", spoken, tmp_path / "out", f"@{conf}")) == labels[:3]
    kept = notes(tmp_path / "out")
    assert (kept["recommended"], kept["chosen_on"], kept["peers"]) == ("tree:paths=0.1.00", "dev", [])
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "Take `tree:paths=3 nodes`: the fastest exact strategy on dev." in page
    conf.write_text("strategies: ar\n")
    command = ["compare", str(spoken), "--model", "an4", "--strategies", f"@{conf}", "--out", str(tmp_path)]
    assert f"{conf}: a list `strategies`" in failing(command)


@pytest.mark.usefixtures("no_pictures")
def test_rows_of_transformers_are_left_out_with_a_reason(text_lms: Path, tmp_path: Path, failing: Any) -> None:
    model, text, quick = text_lms / "lm", text_lms / "lines.txt", ["--prompt-tokens", "4", "--max-new-tokens", "3"]
    for more in (["--batch-size", "4"], ["--temperature", "1"], ["--repetition-penalty", "2"]):
        assert list(compared(model, text, tmp_path, "ar,transformers", *quick, *more)) == ["ar"]
        assert notes(tmp_path)["peers"] == ["transformers' own rows are run greedily at batch size 1 only"]
        assert "batch size 1 only" in (tmp_path / "compare.md").read_text()
        command = ["compare", str(text), "--model", str(model), "--strategies", "transformers", *quick, *more]
        assert "nothing is left to run; transformers' own" in failing([*command, "--out", str(tmp_path)])


def test_a_causal_lm_has_no_error_rates_and_an_assistant(text_lms: Path, tmp_path: Path) -> None:
    draft = ["--draft-model", str(text_lms / "draft"), "--prompt-tokens", "4", "--max-new-tokens", "9"]
    rows = compared(text_lms / "lm", text_lms / "lines.txt", tmp_path, "all", *draft)
    assert {"draft-model:depth=4", "joint-ratio:depth=4", "mtad", "lookahead", "transformers:assistant"} <= set(rows)
    assert not {"verify", "ctc", "ctc-only", "medusa"} & {row["strategy"] for row in rows.values()}
    for label, row in rows.items():
        assert row["utterances"] == 5 and row["tokens"] <= 45 and row["wer"] is row["rtfx"] is None, label
        assert not row["exact"] or row["identical_to_ar"] == 5, label
    drafted = rows["draft-model:depth=4"]
    assert drafted["draft_calls"] > 0 and drafted["trunk_calls"] < rows["ar"]["trunk_calls"]
    assert rows["transformers:assistant"]["draft_calls"] > 0
    page = (tmp_path / "compare.md").read_text()
    assert "WER" not in page and "RTFx" not in page and "stayed %" not in page
    assert (tmp_path / "compare.png").exists() and not (tmp_path / "compare_seconds.png").exists()


@pytest.mark.usefixtures("no_pictures")
def test_drawn_tokens_of_coupled_rows_are_those_of_ar(text_lms: Path, tmp_path: Path) -> None:
    options = [
        "--draft-model",
        str(text_lms / "draft"),
        "--prompt-tokens",
        "4",
        "--max-new-tokens",
        "8",
        "--temperature",
        "1",
    ]
    rules = "draft-model:depth=3,rule=ratio,draft-model:depth=3,rule=block"

    def drawn(seed: str, strategies: str, *more: str) -> tuple[Rows, dict[str, str]]:
        out = tmp_path / "".join([seed, *more])
        rows = compared(text_lms / "lm", text_lms / "lines.txt", out, strategies, *options, "--seed", seed, *more)
        return rows, {p.name: (p / "text").read_text() for p in (out / "text").iterdir()}

    rows, texts = drawn("3", f"ar,lookup:depth=3,draft-model:depth=3,{rules}")
    assert texts["ar"] == texts["lookup_depth=3"] == texts["draft-model_depth=3"]
    for label, row in rows.items():
        assert row["seeded"] == ("rule" not in label) and row["exact"], label
        assert (row["identical_to_ar"], row["differences"]) == (5, []) if row["seeded"] else row["differences"] is None
        assert row["sampling"] == {"temperature": 1.0, "seed": 3}, label
    page = (tmp_path / "3" / "compare.md").read_text()
    assert (
        page.count("| in distribution |") == 2
        and "stayed %" in page
        and "sum min(p, q) %" in page
        and "In distribution: " in page
    )
    for label in ("draft-model:depth=3", "draft-model:depth=3,rule=ratio"):
        assert 0 < rows[label]["expected_acceptance"] < 1 and 0 < rows[label]["acceptance"] <= 1
    again, other = drawn("3", "ar,lookup:depth=3", "--batch-size", "4")[1], drawn("4", "ar,draft-model:depth=3")[1]
    assert again == {name: texts[name] for name in again}
    assert other["ar"] != texts["ar"] and other["ar"] == other["draft-model_depth=3"]


@pytest.mark.usefixtures("no_pictures")
def test_a_difference_beyond_a_near_tie_is_exit_code_1(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = SpeechEvaluationSet.decode

    def wrong(
        evaluation_set: SpeechEvaluationSet, names: Any, strategy: Any, *more: Any, **options: Any
    ) -> list[Result]:
        """`verify` says something else at the fourth token of `letters`."""
        results = decode(evaluation_set, names, strategy, *more, **options)
        if strategy.name != "verify":
            return results
        return [
            replace(r, tokens=(*r.tokens[:3], r.tokens[3] + 1, *r.tokens[4:])) if name == "letters" else r
            for name, r in zip(names, results)
        ]

    monkeypatch.setattr(SpeechEvaluationSet, "decode", wrong)
    out = tmp_path / "exp" / "compare" / "dev"
    row = compared("an4", spoken, out, "ar,verify:depth=3", code=1)["verify:depth=3"]
    [found] = row["differences"]
    assert (found["utterance"], found["index"], row["identical_to_ar"]) == ("letters", 3, 1) and found["gap"] > 0.01
    assert main(["results", str(tmp_path / "exp"), "--out", str(tmp_path / "page.md")]) == 0
    assert "- DIFFERENCE: `verify:depth=3` letters at token 3, gap" in (tmp_path / "page.md").read_text()
    monkeypatch.setitem(comparison.NEAR_TIE, "float32", 1e9)
    row = compared("an4", spoken, out, "ar,verify:depth=3")["verify:depth=3"]
    assert row["differences"] == [] and row["near_ties"] == [found]
    assert "1/2 (1 near-ties)" in (out / "compare.md").read_text()


def wrong_commands() -> Iterator[tuple[list[str], str]]:
    """Arguments behind `compare` (SPOKEN, LM stand for the data) and what the line must say."""
    speech = ["SPOKEN", "--model", "an4"]
    text = ["LMS/lines.txt", "--model", "LMS/lm", "--prompt-tokens", "4"]
    train = "train them with: speechmtp train heads --model an4 --family residual --depth 4 heads.unembedding=own"
    yield [*speech, "--strategies", "medusa"], train
    yield [*speech, "--strategies", "medusa:depth=3"], "a preset is fixed; allowed: heads"
    yield [*speech, "--strategies", "speech-llama:heads=other"], "heads 'other': not among those loaded, latent"
    yield [*speech, "--strategies", "all,draft-model"], "needs a draft model; give one with --draft-model"
    yield [*speech, "--strategies", "tree:paths=0.00.000.0000.00000.000000.0000000.00000000"], "a tree of depth 8"
    yield [*speech, "--strategies", "verify:rule=often"], "expected one of match, ratio, block, sample"
    yield [*speech, "--strategies", ","], "none given"
    yield [*speech, "--prompt-tokens", "3"], "--prompt-tokens, --max-new-tokens: for text LMs"
    yield [*speech, "--temperature", "-1"], "--temperature -1.0: expected 0 or more"
    yield [*speech, "--top-p", "0"], "--top-p 0.0: expected a number above 0, at most 1"
    yield [*speech, "--draft-model", "LMS/draft"], ": a text LM, expected one trained with encoder_from=an4"
    yield ["LMS/lines.txt", "--model", "an4"], "give a Kaldi data directory"
    yield ["SPOKEN", "--model", "LMS/lm"], "give a text file, a text a line"
    yield [*text, "--strategies", "ar,ctc"], "strategy ctc: needs a CTC head, and the model has none"
    yield [*text, "--strategies", "verify"], "strategy verify: heads: the model has no heads"
    yield [*text, "--strategies", "mtad"], "strategy mtad: needs a draft model"
    yield [*text, "--strategies", "eagle"], "train them with: speechmtp train heads --model LMS/lm --family chain"
    yield (
        [*text, "--strategies", "ar", "--max-new-tokens", "0"],
        "--max-new-tokens 0: expected 1 to 1048576",
    )
    yield [*text, "--strategies", "ar", "--draft-model", "LMS/other"], "LMS/other: another vocabulary, 4"


@pytest.mark.parametrize(("arguments", "message"), wrong_commands())
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, spoken: Path, text_lms: Path, tmp_path: Path, failing: Callable[..., str]
) -> None:
    places = {"SPOKEN": str(spoken), "LMS": str(text_lms)}
    for word, place in places.items():
        arguments, message = [a.replace(word, place) for a in arguments], message.replace(word, place)
    assert message in failing(["compare", *arguments, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_footnote_says_how_heads_draft(everything: tuple[Rows, Path]) -> None:
    rows = list(everything[0].values())
    assert {row["drafts"] for row in rows} == {"float32"} and "8 bits" not in comparison_footnote(rows)
    assert "float32 (heads draft in 8 bits) on cpu" in comparison_footnote([rows[0] | {"drafts": "int8"}])
