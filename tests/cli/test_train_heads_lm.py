"""`train heads`, `heads list` and `heads report` on folders of causal LMs of transformers, with text as data."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from engine_runs import Limits, generate
from safetensors.torch import load_file, save_file
from small_lm import LINES, load_lm, write_lm, write_text

import speechmtp
from speechmtp.cli.main import main
from speechmtp.decoding.strategies import make_strategy
from speechmtp.evaluation.held_out import text_prompt
from speechmtp.heads.folder import load_heads, trunk_digest

QUICK = [
    "steps=3",
    "rows=2",
    "size=24",
    "prompt_tokens=3",
    "precision=float32",
    "loop.evaluate_every=2",
    "optim.warmup=1",
]


@pytest.fixture(scope="module")
def lms(tmp_path_factory) -> Path:
    """Folders `llama` and `qwen3`, and a text file."""
    folder = tmp_path_factory.mktemp("lms")
    write_lm(folder / "llama", tied=False)
    write_lm(folder / "qwen3", "qwen3", bos=False)
    write_text(folder / "lines.txt")
    return folder


def command(lms: Path, family: str, out: Path, *more: str) -> list[str]:
    """A short training of chained heads."""
    text = str(lms / "lines.txt")
    options = ["--family", "chain", "--depth", "2", "--train", text, "--train", text, "--dev", text, "--threads", "1"]
    return ["train", "heads", "--model", str(lms / family), *options, "--out", str(out), *more, *QUICK]


@pytest.fixture(scope="module")
def trained(lms, tmp_path_factory) -> Path:
    """Heads `own` and `text` of llama, the second with a shortlist, and `own` of qwen3."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*command(lms, "llama", folder / "llama" / "own")]) == 0
    assert main([*command(lms, "llama", folder / "llama" / "text"), "targets=text", "heads.shortlist=20"]) == 0
    assert main([*command(lms, "qwen3", folder / "qwen3" / "own"), "heads.attention=ttt"]) == 0
    return folder


def failing(arguments: list[str], capsys) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("speechmtp: error: ") and "\n" not in error
    return error


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_causal_lm_is_loaded_with_its_own_opening(family, lms):
    lm = load_lm(lms / family)
    assert lm.bos == (0 if family == "llama" else None) and lm.eos[0] == 1
    ids = lm.encode(LINES[0])
    assert ids == lm.tokenizer(LINES[0])["input_ids"] and lm.decode(ids) == LINES[0]
    assert lm.trunk.shape.qk_norm == (family == "qwen3") and not lm.trunk.training
    assert not any(p.requires_grad for p in lm.trunk.parameters())


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_heads_of_a_causal_lm_come_back_from_their_folder(family, lms, trained):
    lm = load_lm(lms / family)
    heads = load_heads(trained / family / "own", lm)
    state = load_file(trained / family / "own" / "heads.safetensors")
    assert heads.depth == 2 and all(torch.equal(value, state[name]) for name, value in heads.state_dict().items())
    start = type(heads)(heads.config, lm.trunk.shape)
    start.start_from(lm.trunk)
    moved = [n for n, value in start.state_dict().items() if not torch.equal(value, state[n])]
    assert len(moved) > 5
    other = load_lm(lms / ("qwen3" if family == "llama" else "llama"))
    with pytest.raises(speechmtp.errors.CheckpointError, match="another trunk"):
        load_heads(trained / family / "own", other)


def test_a_shortlist_is_of_the_texts_and_keeps_the_end(lms, trained):
    lm = load_lm(lms / "llama")
    heads = load_heads(trained / "llama" / "text", lm)
    ids = heads.shortlist.tolist()
    behind = [t for line in LINES for t in [*lm.encode(line)[3:], lm.eos[0]]]
    common = sorted(set(behind), key=lambda t: (-behind.count(t), t))[:10]
    assert len(ids) == 20 == len(set(ids)) and ids == sorted(ids)
    assert lm.eos[0] in ids and set(common) <= set(ids)


def test_list_tells_which_heads_fit(lms, trained, tmp_path, capsys):
    folders = [str(trained / "llama" / name) for name in ("own", "text")]
    chosen = [part for folder in folders for part in ("--heads", folder)]
    assert main(["heads", "list", "--model", str(lms / "llama"), *chosen]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert all(rows[folder][1:3] == ["chain", "2"] and rows[folder][-2:] == ["llama", "yes"] for folder in folders)
    assert "20" in rows[folders[1]]
    assert main(["heads", "list", "--model", str(lms / "qwen3"), "--heads", folders[0]]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "no"
    assert main(["heads", "list", "--model", str(lms / "qwen3")]) == 0
    assert "no heads" in capsys.readouterr().out


def test_the_report_predicts_what_decoding_measures(lms, trained, tmp_path, capsys):
    model, text, chosen = str(lms / "llama"), str(lms / "lines.txt"), []
    for name in ("own", "text"):
        chosen += ["--heads", str(trained / "llama" / name)]
    options = ["--prompt-tokens", "4", "--max-new-tokens", "12", "--batch-size", "4"]
    assert main(["heads", "report", text, "--model", model, *chosen, *options]) == 0
    shown = capsys.readouterr().out
    beside = trained / "llama" / "own" / "report"
    report = json.loads((beside / "lines.txt" / "report.json").read_text())
    kept = json.loads((beside / "lines.txt.json").read_text())
    assert {p.name for p in (beside / "lines.txt").iterdir()} == {"report.json", "report.md", "report.png"}
    assert report["utterances"] == 10 and report["reference_source"] == "decoded now"
    assert (report["prompt_tokens"], report["max_new_tokens"], report["note"]) == (4, 12, None)
    assert "tokens per call of at most" in shown and "each behind the first 4 of its text" in shown
    lm = load_lm(model)
    prompts = [lm.encode(line)[:4] for line in LINES]
    for name, found in zip(("own", "text"), report["heads"]):
        heads = load_heads(trained / "llama" / name, lm)
        for row in found["depths"]:
            strategy = make_strategy("verify", {"depth": row["depth"]})
            prompt, limits = text_prompt(lm.trunk, prompts), Limits(0.0, 12, 12)
            assert strategy.drafter is not None and strategy.rule is not None
            tokens, traces = generate(
                lm.trunk, heads, prompt, strategy.drafter, strategy.rule, lm.eos[0], limits=limits
            )  # fmt: skip
            assert list(kept["tokens"].values()) == tokens * 2
            assert row["tokens_per_call"] == pytest.approx(sum(map(len, tokens)) / sum(t.calls for t in traces))
    assert main(["heads", "report", text, "--model", model, *chosen, *options]) == 0
    again = json.loads((beside / "lines.txt" / "report.json").read_text())
    assert again["reference_source"] == "kept tokens" and again["heads"] == report["heads"]
    assert (
        main(["heads", "report", text, "--model", model, *chosen, "--prompt-tokens", "4", "--max-new-tokens", "11"])
        == 0
    )
    changed = json.loads((beside / "lines.txt" / "report.json").read_text())
    assert changed["reference_source"] == "decoded now" and changed["tokens"] < report["tokens"]


def test_the_text_itself_as_reference_is_marked(lms, trained, tmp_path, capsys):
    heads = ["--heads", str(trained / "llama" / "text"), "--reference", "text", "--out", str(tmp_path)]
    assert (
        main(["heads", "report", str(lms / "lines.txt"), "--model", str(lms / "llama"), *heads, "--prompt-tokens", "3"])
        == 0
    )
    report = json.loads((tmp_path / "report.json").read_text())
    lm = load_lm(lms / "llama")
    assert report["tokens"] == 2 * sum(len(lm.encode(line)) + 1 - 3 for line in LINES)
    assert "biased" in report["note"] and "biased: text" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.txt.json"))


@pytest.mark.parametrize(("family", "mode"), [("llama", "lora"), ("qwen3", "joint")])
def test_a_causal_lm_that_moved_is_a_folder_of_transformers(family, mode, lms, tmp_path, capsys):
    if mode == "lora":
        pytest.importorskip("peft")
    assert main([*command(lms, family, tmp_path / "out"), f"mode={mode}"]) == 0
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("{"))
    model = tmp_path / "out" / "model"
    before, lm = load_lm(lms / family), load_lm(model)
    assert trunk_digest(lm) != trunk_digest(before) and lm.encode(LINES[1]) == before.encode(LINES[1])
    assert load_heads(model / "heads" / "chain", lm).depth == 2  # not stale
    assert (
        main(
            [
                "heads",
                "report",
                str(lms / "lines.txt"),
                "--model",
                str(model),
                "--prompt-tokens",
                "3",
                "--max-new-tokens",
                "24",
            ]
        )
        == 0
    )
    report = json.loads((model / "heads" / "chain" / "report" / "lines.txt" / "report.json").read_text())
    assert report["heads"][0]["tokens_per_call"] == pytest.approx(json.loads(line)["tokens_per_call"], abs=6e-4)


def test_wrong_input_is_one_line(lms, trained, tmp_path, capsys):
    out, text = tmp_path / "out", str(lms / "lines.txt")
    spoken = str(Path(speechmtp.__file__).parent / "assets" / "examples")
    error = failing(command(lms, "llama", out, "--dev", spoken), capsys)
    assert f"{spoken}: a folder" in error and "is a text LM; give a text file" in error
    assert "--prompts p" in failing(command(lms, "llama", out, "--prompts", "p"), capsys)
    assert "nowhere.txt" in failing(command(lms, "llama", out, "--train", "nowhere.txt"), capsys)
    assert "no text longer than its prompt of 40" in failing(
        [*command(lms, "llama", out), "prompt_tokens=40", "size=50"], capsys
    )
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    only = ["train", "heads", "--model", str(lms / "llama"), "--train", str(empty), "--dev", text, "--out", str(out)]
    assert f"{empty}: no text" in failing([*only, *QUICK], capsys)
    report = ["heads", "report", "--model", str(lms / "llama")]
    heads = ["--heads", str(trained / "llama" / "own")]
    assert "a folder" in failing([*report, spoken, *heads], capsys)
    assert "has no heads" in failing([*report, text], capsys)
    assert "--prompt-tokens 0" in failing([*report, text, *heads, "--prompt-tokens", "0"], capsys)
    assert "--dtype int4" in failing([*report, text, *heads, "--dtype", "int4"], capsys)
    assert "a speech model" in failing(["heads", "report", text, "--model", "an4"], capsys)
    assert "--prompt-tokens, --max-new-tokens" in failing(
        ["heads", "report", spoken, "--model", "an4", "--max-new-tokens", "3"], capsys
    )
    stale = failing(["heads", "report", text, "--model", str(lms / "qwen3"), *heads], capsys)
    assert "another trunk (llama)" in stale and "--allow-stale-heads" in stale


def test_folders_that_are_no_whole_causal_lm_are_one_line(lms, tmp_path, capsys):
    def error(change) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(lms / "llama", tmp_path / "bad")
        change(tmp_path / "bad")
        return failing(["heads", "list", "--model", str(tmp_path / "bad")], capsys)

    def without(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        save_file({n: v for n, v in state.items() if "0.mlp.up_proj" not in n}, folder / "model.safetensors")

    def narrow(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        save_file(state | {"model.norm.weight": torch.ones(5)}, folder / "model.safetensors")

    def gpt2(folder: Path) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(vocab_size=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=1)
        GPT2LMHeadModel(config).save_pretrained(folder)

    def config(folder: Path, **values: object) -> None:
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | values))

    assert "1 missing (first: " in error(without) and "up_proj" in error(without)
    assert "model.norm.weight" in error(narrow)
    assert "no list `layers`" in error(gpt2)
    assert "cannot be loaded" in error(lambda folder: (folder / "model.safetensors").write_bytes(b"torn"))
    assert "cannot be loaded" in error(lambda folder: (folder / "tokenizer.json").unlink())
    assert "cannot be loaded" in error(lambda folder: config(folder, model_type="no-such"))
    assert "only full attention" in error(write_mistral)


def write_mistral(folder: Path) -> None:
    """A model with a sliding window."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
    MistralForCausalLM(MistralConfig(**sizes, **heads)).save_pretrained(folder)
