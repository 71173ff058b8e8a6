"""Comparison, tuning and head reports called from Python: no command line, no files unless they are asked for."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import small_lm
import yaml
from torch import nn

import speechmtp
from speechmtp.api import load
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import ConfigError
from speechmtp.evaluation import comparison_files
from speechmtp.evaluation.comparison import recommend, run_comparison
from speechmtp.evaluation.comparison_files import comparison_notes, write_comparison
from speechmtp.evaluation.evaluation_sets import EvaluationSet, open_evaluation_set, open_model
from speechmtp.evaluation.head_list import list_heads
from speechmtp.evaluation.head_report import head_folders, report_footnote, report_heads, report_tables
from speechmtp.evaluation.selection import StrategySelection, prepare_strategies
from speechmtp.evaluation.settings import EvaluationSettings
from speechmtp.evaluation.tables import comparison_columns, comparison_footnote, comparison_rows
from speechmtp.evaluation.tuning import TuningConfig, basic_candidates, run_tuning, write_tuning
from speechmtp.kernels.cpu.packed_linear import PackedLinear, has_packed

PACKAGE = Path(speechmtp.__file__).parent
EXAMPLES = str(PACKAGE / "assets" / "examples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal LM `lm`, a draft model `draft` of its vocabulary, and texts in lines.txt."""
    place = tmp_path_factory.mktemp("lms")
    small_lm.write_lm(place / "lm")
    small_lm.write_lm(place / "draft", "qwen3")
    small_lm.write_text(place / "lines.txt", copies=1)
    return place


def settings(folder: Path, **more: Any) -> EvaluationSettings:
    """Those of the tiny LM."""
    given: dict[str, Any] = {"prompt_tokens": 4, "max_new_tokens": 6, "device": "cpu"} | more
    return EvaluationSettings(str(folder / "lines.txt"), str(folder / "lm"), **given)


@pytest.fixture(scope="module")
def texts(folder: Path) -> EvaluationSet:
    """The evaluation set of the tiny LM with its draft model."""
    return open_evaluation_set(settings(folder, draft_model=str(folder / "draft")))


@pytest.fixture(scope="module")
def spoken() -> EvaluationSet:
    """The package's examples for its smallest model."""
    return open_evaluation_set(EvaluationSettings(EXAMPLES, "an4", device="cpu", root=EXAMPLES))


def test_a_comparison_in_a_few_lines(texts: EvaluationSet) -> None:
    comparison = run_comparison(texts, ["ar", "lookup:depth=3", "draft-model:depth=2"], peers=["greedy"])
    labels = ["ar", "lookup:depth=3", "draft-model:depth=2", "transformers:greedy"]
    assert [row["label"] for row in comparison.rows] == labels == list(comparison.texts)
    assert not comparison.differs and all(row["identical_to_ar"] == 5 for row in comparison.rows)
    assert comparison.texts["ar"] == comparison.texts["draft-model:depth=2"]
    assert set(comparison.texts["ar"]) == set(texts.names) and len(texts.names) == 5
    again = run_comparison(texts, [parse_strategy("ar")], 4, SamplingConfig(temperature=1.0, seed=2))
    assert again.rows[0]["batch_size"] == 4 and again.rows[0]["sampling"]["seed"] == 2


def test_a_comparison_of_speech_and_its_table(spoken: EvaluationSet) -> None:
    rows = run_comparison(spoken, ["ar", "ctc", "verify:depth=3", "oracle"]).rows
    assert [row["wer"] for row in rows] == [rows[0]["wer"]] * 4 and recommend(rows) in ("ctc", "verify:depth=3")
    shown, columns = comparison_rows(rows), comparison_columns(rows)
    assert [row["name"] for row in shown] == ["ar", "ctc", "verify:depth=3", "oracle:depth=7"]
    assert shown[0]["same"] == "4/4" and [row["exact"] for row in shown] == ["yes"] * 4
    headings = [column.heading for column in columns]
    assert "WER %" in headings and "RTFx" in headings and "stayed %" not in headings
    note = comparison_footnote(rows, {"recommended": "ctc", "chosen_on": "dev"})
    assert note.startswith("4 utterances, ") and "Take `ctc`: the fastest exact strategy on dev." in note


def test_files_of_a_comparison(texts: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_files, "plot_comparison", lambda *_: "no matplotlib")
    comparison = run_comparison(texts, ["ar", "lookup"])
    notes = comparison_notes("lines.txt", StrategySelection(recommended="lookup"), ["a note"])
    assert notes == {"peers": ["a note"], "recommended": "lookup", "chosen_on": "", "data": "lines.txt"}
    assert write_comparison(comparison, notes, tmp_path / "deep" / "out") == "no matplotlib"
    out = tmp_path / "deep" / "out"
    assert json.loads((out / "compare.json").read_text())[1]["label"] == comparison.rows[1]["label"]
    assert json.loads((out / "notes.json").read_text()) == notes
    assert len((out / "text" / "ar" / "text").read_text().splitlines()) == 5
    assert "a note." in (out / "compare.md").read_text()


def test_a_tuning_in_a_few_lines(spoken: EvaluationSet, tmp_path: Path) -> None:
    config = TuningConfig(thetas=[0.9], loss=0.5)
    tuning = run_tuning(spoken, config)
    tried = [row["label"] for row in tuning.rows]
    assert tried == [s.label for s in basic_candidates(spoken.runner, True, config)]
    assert {"ar", "ctc", "verify:depth=7", "threshold:depth=7,theta=0.9,measure=token"} <= set(tried)
    assert tuning.chosen[0]["label"] == "ar" and tuning.recommended == recommend(tuning.chosen)
    assert tuning.strategies == [*(row["label"] for row in tuning.chosen), "oracle:depth=3", "oracle:depth=7"]
    write_tuning(tuning, config, "data/dev", tmp_path / "tune", tmp_path / "conf" / "best.yaml")
    written = yaml.safe_load((tmp_path / "conf" / "best.yaml").read_text())
    assert written == {"chosen_on": "dev", "loss": 0.5, "strategies": tuning.strategies,
                       "recommended": tuning.recommended}  # fmt: skip
    assert json.loads((tmp_path / "tune" / "tune.json").read_text())[0]["label"] == "ar"
    selection = StrategySelection.parse(f"@{tmp_path / 'conf' / 'best.yaml'}")
    assert [s.label for s in selection.listed] == tuning.strategies and selection.recommended == tuning.recommended


def test_a_tuning_of_named_strategies_has_ar_beside_them(texts: EvaluationSet) -> None:
    tuning = run_tuning(texts, TuningConfig(everything=True, names=["lookup"]))
    assert {parse_strategy(row["label"]).name for row in tuning.rows} == {"ar", "lookup"}
    assert len(tuning.rows) == 1 + 2 * 3, "every combination of the grid"
    assert tuning.strategies[-1] == "transformers" and len(tuning.chosen) == 2


def test_a_head_report_from_python(tmp_path: Path) -> None:
    given = EvaluationSettings(EXAMPLES, "an4", device="cpu", root=EXAMPLES)
    report = report_heads(given, out=tmp_path / "report")
    [head] = report.summary["heads"]
    assert (head["name"], head["depth"], report.folder) == ("latent", 7, tmp_path / "report")
    assert report.summary["reference_source"] == "decoded now" and report.summary["utterances"] == 4
    assert report_heads(given, out=tmp_path / "report").summary["reference_source"] == "kept tokens"
    [(headline, rows, columns)] = report_tables(report.summary)
    assert headline.startswith("latent (latent, depth 7): ") and len(rows) == 7 and len(columns) > 5
    assert report_footnote(report.summary).startswith("4 utterances, ")
    assert not (tmp_path / "report" / "report.json").exists(), "nothing but the outputs is stored"
    biased = report_heads(given, "text", tmp_path / "report").summary
    assert biased["note"] is not None and biased["tokens"] > 0


def test_head_sets_are_listed_from_their_files() -> None:
    [row] = list_heads("an4")
    assert (row["name"], row["family"], row["depth"], row["fits"]) == ("latent", "latent", 7, True)
    [named] = list_heads("an4", ["latent"])
    assert named == row and list(head_folders("an4")) == list(head_folders("an4", ["latent"])) == ["latent"]


def test_a_model_is_opened_before_its_data_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speechmtp.evaluation import evaluation_sets

    asked: list[Any] = []
    whole = evaluation_sets.long_texts
    monkeypatch.setattr(evaluation_sets, "long_texts", lambda *given: asked.append(given) or whole(*given))
    model = open_model(settings(folder))
    assert not asked and not model.has_ctc and model.runner.heads == {}
    assert len(model.read().names) == 5 and len(asked) == 1


def test_batches_are_of_like_size_and_in_the_order_of_names(spoken: EvaluationSet) -> None:
    sizes = [spoken.requests[name].size for batch in spoken.batches(3) for name in batch]
    assert sizes == sorted(sizes) and [len(batch) for batch in spoken.batches(3)] == [3, 1]
    assert spoken.has_ctc and spoken.audio_seconds > 1 and spoken.listen_seconds > 0


def test_a_text_lm_and_its_draft_model_choose_their_linear_layers(texts: EvaluationSet) -> None:
    for trunk in (texts.runner.trunk, texts.assistant):
        assert trunk is not None
        kinds = {type(module) for module in trunk.modules() if isinstance(module, nn.Linear)}
        assert kinds == ({PackedLinear} if has_packed() else {nn.Linear})


def test_a_selection_says_what_runs(texts: EvaluationSet) -> None:
    selection = StrategySelection.parse("ar,top-k,all,transformers", exact=True)
    assert [s.label for s in selection.listed] == ["ar"] and selection.every and selection.peers
    labels = [s.label for s in selection.strategies(texts.runner, texts.has_ctc)]
    assert labels[0] == "ar" and labels.count("ar") == 1 and not [label for label in labels if "top-k" in label]
    assert all(parse_strategy(label).exact for label in labels)
    modes, notes = selection.peer_modes(texts, 1, SamplingConfig())
    assert modes == ["greedy", "prompt_lookup", "assistant"] and notes == []
    assert selection.peer_modes(texts, 2, SamplingConfig())[0] == []
    assert StrategySelection.parse("ar").peer_modes(texts, 1, SamplingConfig()) == ([], [])


def python_mistakes(folder: Path, texts: EvaluationSet) -> list[tuple[Any, str]]:
    """Calls that fail, and what the line must say, in the words of Python."""
    speech = EvaluationSettings(EXAMPLES, "an4", device="cpu", root=EXAMPLES, prompt_tokens=3)
    return [
        (lambda: run_comparison(texts, ["ar"], 0), "batch_size=0: expected 1 or more"),
        (lambda: run_comparison(texts, []), "strategies=\\[\\]: nothing to compare"),
        (lambda: run_comparison(texts, ["ctc"]), "needs a CTC head, and the model has none"),
        (lambda: prepare_strategies(["oracle"], texts.runner), "only a comparison has it"),
        (lambda: prepare_strategies(["previous"], texts.runner), "needs a pass before over the same audio"),
        (lambda: open_model(settings(folder, prompt_tokens=0)), "settings: prompt_tokens=0, expected 1 to 1048576"),
        (lambda: open_model(settings(folder, dtype="int4")), "dtype='int4': expected one of float32"),
        (lambda: open_model(settings(folder, device="meta")), "device='meta': not available here"),
        (lambda: open_model(speech), "prompt_tokens=, max_new_tokens=: for text LMs, and an4 is a speech model"),
        (lambda: TuningConfig(names=["ar"]), "names=: goes with everything=True"),
        (lambda: report_heads(settings(folder)), "has no heads; train some, or give a head folder as heads="),
        (lambda: report_heads(settings(folder), "both"), "reference='both': expected one of ar, text"),  # type: ignore[arg-type]
        (lambda: report_heads(EvaluationSettings(EXAMPLES, "an4", root=EXAMPLES)), "package.*give a folder as out="),
        (lambda: load("an4", dtype="int4"), "dtype='int4': expected one of"),
        (lambda: load("an4", device="meta"), "device='meta': not available here"),
        (lambda: load("an4", drafts="int4"), "drafts='int4': expected one of"),
        (lambda: load("an4", dtype="float64", drafts="int8"), "drafts='int8': needs a CPU and float32"),
    ]


def test_mistakes_are_told_in_the_words_of_python(folder: Path, texts: EvaluationSet) -> None:
    for call, message in python_mistakes(folder, texts):
        with pytest.raises(ConfigError, match=message) as found:
            call()
        assert "\n" not in str(found.value) and " --" not in str(found.value), str(found.value)


def strings(path: Path) -> list[str]:
    """Every piece of text in a file besides docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        and isinstance(node.body[0], ast.Expr)
    }  # fmt: skip
    found = (
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
    )
    return [str(node.value) for node in found]


@pytest.mark.parametrize("place", ["evaluation", "scoring", "api.py", "shared.py", "transcripts.py", "listening.py"])
def test_the_library_knows_no_options(place: str) -> None:
    files = sorted((PACKAGE / place).rglob("*.py")) if (PACKAGE / place).is_dir() else [PACKAGE / place]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "argparse" not in text and "Namespace" not in text, path
        if path.name != "results_page.py":  # which reads the options of a recorded command
            assert not [s for s in strings(path) if "--" in s and any(c.isalpha() for c in s)], path
