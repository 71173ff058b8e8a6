"""The verb `strategies`, and the page that is written from the same code."""

import argparse
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from speechmtp.cli.main import main
from speechmtp.cli.strategies import marked, option_rows, page_blocks, promise
from speechmtp.cli.train_heads import add_heads_arguments, read_heads_config
from speechmtp.decoding.presets import PRESETS, training_command
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.table import RULES
from speechmtp.decoding.strategies import make_strategy
from speechmtp.decoding.strategy_table import STRATEGIES, rules_for
from speechmtp.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "strategies.md"
ABSTRACT = {"AcceptanceRule", "NodewiseRule", "ArgmaxRule"}


def output_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command that succeeds prints."""
    assert main(["strategies", *arguments]) == 0
    return capsys.readouterr().out


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails."""
    assert main(["strategies", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("speechmtp: error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize("name", ["strategies", "options", "presets"])
def test_the_page_is_what_the_code_says(name: str) -> None:
    blocks = page_blocks()
    assert list(blocks) == ["strategies", "options", "presets"]
    assert marked(name, blocks[name]) in PAGE.read_text(encoding="utf-8"), "stale: run `make docs`"


def test_a_stale_page_is_written_anew_and_its_prose_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("plain decoding, one token a call", "old"), encoding="utf-8")
    assert page.read_text(encoding="utf-8") != text
    output_of(["--markdown", str(page)], capsys)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("# nothing\n")
    assert "<!-- begin strategies -->" in error_of(["--markdown", str(page)], capsys)
    assert page.read_text() == "# nothing\n"
    assert str(tmp_path / "none.md") in error_of(["--markdown", str(tmp_path / "none.md")], capsys)
    for name, block in page_blocks().items():
        assert marked(name, block) in output_of(["--markdown"], capsys)


def test_the_table_has_every_strategy_and_preset(capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of([], capsys)
    first = {line.split()[0]: line for line in out.splitlines() if line}
    for name, row in STRATEGIES.items():
        assert row.summary in first[name]
        assert all(key in first[name] for key in row.options)
    for name, preset in PRESETS.items():
        assert preset.summary in first[name] and preset.paper in first[name]
    assert "  exact  " in first["verify"] and "  heads  " in first["verify"] and "depth=7" in first["verify"]
    assert "  lossy  " in first["typical"] and "  reference  " in first["oracle"]
    assert "CTC head" in first["ctc"] and "draft model" in first["mtad"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_by_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of([name], capsys)
    words, strategy = " ".join(out.split()), make_strategy(name, {})
    assert STRATEGIES[name].summary in words and promise(strategy) in words
    for part in (strategy.drafter, strategy.rule):
        assert part is None or " ".join((inspect.getdoc(type(part)) or "").split()) in words
    for row in option_rows(name):
        assert re.search(rf"^{row['option']} .*{re.escape(row['allowed'])}$", out, re.M)
        assert row["default"] is None or str(row["default"]) in out
    for rule in RULES:
        legal = strategy.drafter is not None and rule in rules_for(strategy.drafter)
        assert (f"rule={rule} " in out) == ("rule" in STRATEGIES[name].options and legal)
    assert ("length=cost " in out) == ("length" in STRATEGIES[name].options)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_by_its_name_and_on_the_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    preset = PRESETS[name]
    words = " ".join(output_of([name], capsys).split())
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    for text in (words, section):
        assert preset.paper in text and preset.differs in text
        assert make_strategy(preset.strategy, dict(preset.options)).label in text
        assert all(f"{key}={value}" in text for key, value in preset.heads.items() if value is not True)
        assert preset.training in text and ("train heads" in text) == bool(preset.heads)
    assert f"options {', '.join(preset.free) or 'none'} differs" in words
    for key in preset.free:
        assert make_strategy(name, {key: preset.options.get(key, "chain")}).name == name
    with pytest.raises(ConfigError, match="a preset is fixed"):
        make_strategy(name, {"nodes": 3})


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.heads])
def test_the_training_command_of_a_preset_makes_heads_that_fit_it(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_heads_arguments(parser)
    program, verb, what, *words = shlex.split(training_command(name, "MODEL"))
    assert (program, verb, what) == ("speechmtp", "train", "heads")
    config = read_heads_config(parser.parse_args(words))
    assert PRESETS[name].fits(config.heads)
    assert config.mode == "frozen" and config.targets == "own", "as the page says of all presets"


def test_a_name_as_markdown_and_wrong_names(capsys: pytest.CaptureFixture[str]) -> None:
    out = output_of(["verify", "--markdown"], capsys)
    assert "- **drafter**: HeadChain." in out and "| option  | default |" in out
    assert "did you mean 'medusa'?" in error_of(["medussa"], capsys)
    assert "leave out NAME" in error_of(["verify", "--markdown", "page.md"], capsys)


@pytest.mark.parametrize(
    ("name", "key", "words", "right", "wrong"),
    [
        ("verify", "depth", "0 to 1024", 0, 1_000_000),
        ("suffix", "depth", "2 to 1024", 2, 1),
        ("verify", "theta", "a number from 0 to 1", 1.0, 1.5),
        ("typical", "epsilon", "a number above 0, at most 1", 1.0, 0.0),
        ("dynamic-tree", "width", "1 to 10", 10, 11),
        ("ctc", "mode", "whole, resume, recycle, tree", "tree", "rest"),
        ("lookup", "match", "last or first", "first", "any"),
        ("verify", "length", "running or cost", "cost", "long"),
        ("tree", "paths", "ranks from 0 to 9 as in 0.00.1", "0.1", "x"),
        ("verify", "rule", "match, ratio, block, sample, k-seq, typical", "block", "exact"),
        ("jacobi", "ngram", "2 to 32", 2, 1),
        ("groups", "similarity", "a number from -1 to 1", -1.0, -1.5),
    ],
)
def test_what_an_option_may_be_is_so(name: str, key: str, words: str, right: Any, wrong: Any) -> None:
    assert STRATEGIES[name].options[key].allowed.startswith(words)
    make_strategy(name, {key: right})
    with pytest.raises(ConfigError, match=re.escape(words)):
        make_strategy(name, {key: wrong})


def known_rules() -> dict[str, type[AcceptanceRule]]:
    """Every rule that the package defines, by its class's name."""
    import speechmtp.decoding.rules as room

    found: dict[str, type[AcceptanceRule]] = {}
    for place in pkgutil.iter_modules(room.__path__):
        module = importlib.import_module(f"{room.__name__}.{place.name}")
        found |= {
            name: kind for name, kind in vars(module).items()
            if inspect.isclass(kind) and issubclass(kind, AcceptanceRule) and kind.__module__ == module.__name__
        }  # fmt: skip
    return found


def rule_table() -> list[list[str]]:
    """Cells of the page's table of acceptance rules."""
    table = PAGE.read_text(encoding="utf-8").partition("| id | rule |")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def test_the_table_of_rules_names_every_rule_as_it_is() -> None:
    known = known_rules()
    told: dict[str, list[str]] = {}
    for cells in rule_table():
        assert len(cells) == 8
        told |= dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), cells)
    assert set(told) == set(known) - ABSTRACT - {"GreedyEntropyWindow"}  # `EntropyWindow` at temperature 0
    for name, cells in told.items():
        kind = known[name]
        if isinstance(kind.exact, bool):
            assert cells[4].split()[0] == ("exact" if kind.exact else "lossy"), name
        if name not in ("AlikeGroups", "GroupMatch"):  # the row is of what they become
            assert cells[5] == kind.draws, name
    ids = [found for cells in rule_table() for found in re.findall(r"R\d+", cells[0])]
    assert set(ids) == {f"R{number}" for number in range(16)}


def test_strategies_ask_for_the_rules_that_the_table_says() -> None:
    asked = {name: cells[6] for cells in rule_table() for name in re.findall(r"`(\w+)`", cells[1])}
    for rule, kind in RULES.items():
        assert f"`rule={rule}`" in asked[kind.__name__]
    for name, row in STRATEGIES.items():
        made = make_strategy(name, {})
        if made.rule is not None and "rule" not in row.options:
            assert f"`{name}`" in asked[type(made.rule).__name__], name


def test_examples_on_the_page_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    parser, runner, names = doctest.DocTestParser(), doctest.DocTestRunner(), dict[str, Any]()
    for block in blocks:
        test = parser.get_doctest(block, names, PAGE.name, str(PAGE), 0)
        runner.run(test, clear_globs=False)
        names = test.globs
    assert runner.tries == 12 and runner.failures == 0


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in (PAGE, ROOT / "docs" / "data_flow.md", ROOT / "README.md"):
        text = page.read_text(encoding="utf-8")
        anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                   for line in text.splitlines() if line.startswith("#")}  # fmt: skip
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            assert "://" in path or (page.parent / path).exists(), target
            assert path or anchor in anchors, target
    assert "docs/strategies.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(strategies.md)" in (ROOT / "docs" / "data_flow.md").read_text(encoding="utf-8")
