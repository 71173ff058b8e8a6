"""`train heads` on a speech model: the embedded one and its spoken examples, from prompts to decoded text."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import speechmtp
import speechmtp.models.locate
from speechmtp.cli.main import main

EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"
QUICK = ["steps=3", "rows=2", "passes=1", "precision=float32", "loop.evaluate_every=2", "optim.warmup=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The examples as a Kaldi data directory of its own."""
    folder = tmp_path_factory.mktemp("data") / "spoken"
    shutil.copytree(EXAMPLES, folder)
    return folder


def command(data: Path, out: Path, *more: str, model: str = "an4") -> list[str]:
    """A short training of chained heads."""
    options = ["--family", "chain", "--depth", "2", "--train", str(data), "--dev", str(data), "--threads", "1"]
    return ["train", "heads", "--model", model, *options, "--out", str(out), *more]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A head folder `two`, with its prompts beside it."""
    folder = tmp_path_factory.mktemp("trained")
    assert main([*command(data, folder / "two", "--prompts", str(folder / "prompts")), *QUICK]) == 0
    return folder / "two"


def texts(capsys, *options: str) -> tuple[list[str], list[dict]]:
    """Texts and trace rows of two examples."""
    capsys.readouterr()
    files = [str(path) for path in (EXAMPLES / "digits.flac", EXAMPLES / "letters.flac")]
    assert main(["transcribe", "--model", "an4", *files, "--json", *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [row["text"] for row in rows], rows


def reported(model: str, data: Path, out: Path, *options: str) -> dict:
    """The head set's figures of `heads report`."""
    assert main(["heads", "report", str(data), "--model", model, "--out", str(out), *options]) == 0
    [head] = json.loads((out / "report.json").read_text())["heads"]
    return head


def figures(text: str) -> dict[str, float]:
    """The development figures that a training printed."""
    return json.loads(next(line for line in text.splitlines() if line.startswith("{")))


def failing(arguments: list[str], capsys) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("speechmtp: error: ") and "\n" not in error
    return error


def test_a_head_folder_is_written_and_decodes_what_ar_says(trained, data, tmp_path, capsys):
    assert {p.name for p in trained.iterdir()} == {
        "config.yaml", "heads.safetensors", "card.md", "train.yaml", "inputs.json", "training",
    }  # fmt: skip
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert (config["heads"]["kind"], config["heads"]["depth"], config["base"]) == ("chain", 2, "an4")
    card = (trained / "card.md").read_text()
    assert "Family chain, depth 2" in card and "on spoken for 3 updates, mode frozen, targets own" in card
    plain, _ = texts(capsys, "--strategy", "ar")
    verified, rows = texts(capsys, "--heads", str(trained), "--strategy", "verify:heads=two")
    assert verified == plain
    assert {row["strategy"] for row in rows} == {"verify:depth=2,heads=two"}  # as deep as the heads, not 7
    assert main(["heads", "list", "--model", "an4", "--heads", str(trained)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "yes"
    head = reported("an4", data, tmp_path, "--heads", str(trained))
    assert f"- tokens_per_call: {head['tokens_per_call']:.2f}\n" in card
    assert f"- share: {100 * head['share']:.2f}\n" in card


def test_kept_prompts_give_the_same_heads(trained, data, tmp_path, capsys):
    prompts = trained.parent / "prompts"
    before = prompts.read_bytes(), prompts.stat().st_mtime_ns
    again = command(data, tmp_path / "again", "--prompts", str(prompts))
    assert main([*again, *QUICK]) == 0
    assert (prompts.read_bytes(), prompts.stat().st_mtime_ns) == before
    fresh = command(data, tmp_path / "fresh")
    assert main([*fresh, *QUICK]) == 0
    one, *others = (load_file(f / "heads.safetensors") for f in (trained, tmp_path / "again", tmp_path / "fresh"))
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)
    for change in ("targets=text", "passes=2", "augment.gain=0.1"):
        error = failing([*command(data, tmp_path / "x", "--prompts", str(prompts)), *QUICK, change], capsys)
        assert str(prompts) in error and "another model, data or options" in error
    shutil.copytree(speechmtp.models.locate.locate("an4"), tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    state = load_file(weights)
    name = next(n for n in state if n.startswith("encoder.") and state[n].is_floating_point())
    from safetensors.torch import save_file

    save_file(state | {name: state[name] + 1}, weights)  # the trunk is the same, what it hears is not
    options = command(data, tmp_path / "x", "--prompts", str(prompts), model=str(tmp_path / "other"))
    assert "another model, data or options" in failing([*options, *QUICK], capsys)


@pytest.mark.parametrize(("mode", "storage"), [("joint", "float32"), ("lora", "int8")])
def test_a_trunk_that_moved_is_written_as_a_model(mode, storage, data, tmp_path, capsys):
    if mode == "lora":
        pytest.importorskip("peft")
    out = tmp_path / "out"
    assert main([*command(data, out, "--storage", storage), *QUICK, f"mode={mode}", "kl_to_base=true"]) == 0
    found = figures(capsys.readouterr().out)
    model = str(out / "model")
    assert {"score", "tokens_per_call", "share", "top1_1", "wer"} == set(found)
    assert not (out / "heads.safetensors").exists()
    card = (out / "model" / "card.md").read_text()
    assert f"mode {mode}" in card and "The embedded model of speechmtp" in card  # what it was before is not lost
    plain, _ = texts(capsys, "--model", model, "--strategy", "ar")
    verified, rows = texts(capsys, "--model", model, "--strategy", "verify")
    assert verified == plain and {row["strategy"] for row in rows} == {"verify:depth=2"}
    if storage == "float32":  # figures were those of this model, with its own start token
        head = reported(model, data, tmp_path / "report")
        assert head["tokens_per_call"] == pytest.approx(found["tokens_per_call"], abs=6e-4)
    error = failing(["transcribe", "x.wav", "--model", "an4", "--heads", f"{model}/heads/chain"], capsys)
    assert "another trunk" in error


def test_a_training_is_resumed_and_never_written_over(trained, data, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    assert "give --resume" in failing([*command(data, out), *QUICK], capsys)
    weights = (out / "heads.safetensors").read_bytes()
    (out / "heads.safetensors").unlink()
    assert main([*command(data, out, "--resume"), *QUICK]) == 0
    assert (out / "heads.safetensors").read_bytes() == weights
    error = failing([*command(data, out, "--resume"), *QUICK, "optim.lr=0.1"], capsys)
    assert "train.yaml" in error and "differs" in error
    less = shutil.copytree(data, tmp_path / "less")
    for table in ("text", "wav.scp", "utt2spk"):
        (less / table).write_text("".join((less / table).read_text().splitlines(True)[1:]))
    error = failing([*command(less, out, "--resume"), *QUICK], capsys)
    assert re.search(r"(dev|train) data was \d+ utterances .*, is \d+ utterances .*; resume on the same", error), error
    model = tmp_path / "model"
    shutil.copytree(speechmtp.models.locate.locate("an4"), model)
    before = (model / "config.yaml").read_bytes()
    for more in ([], ["--resume"]):
        assert "would be written over" in failing([*command(data, model, *more), *QUICK], capsys)
    assert (model / "config.yaml").read_bytes() == before and not (model / "train.yaml").exists()


def test_wrong_input_is_one_line_and_nothing_is_written(data, tmp_path, capsys):
    out, text = tmp_path / "out", tmp_path / "lines.txt"
    text.write_text("one\n")
    config = tmp_path / "config.yaml"
    config.write_text("heads: chain\n")

    def error(*more: str, train: Path = data) -> str:
        return failing([*command(train, out), *more], capsys)

    unknown = error("--family", "chian")
    assert "--family chian" in unknown and "latent, linear, chain, block" in unknown
    assert "depth=-1, expected 0 to 64" in error("--depth", "-1")
    assert "depth 0 has nothing to train" in error("--depth", "0")
    assert "taps has layer 9, expected 0 to" in error("heads.taps=[1,9]")
    assert "shortlist 99999" in error("heads.shortlist=99999")
    assert "stepz: no such key" in error("stepz=3") and "did you mean 'steps'" in error("stepz=3")
    assert "heads.layerz" in error("heads.layerz=own")
    assert "a group of keys is expected, found 'chain'" in error("--config", str(config))
    assert "'sideways' is not one of frozen, joint, lora, two_stage" in error("mode=sideways")
    assert f"{text}: a file, and an4 is a speech model" in error(train=text)
    assert "no such folder" in error(train=tmp_path / "nowhere")
    assert "one --train and one --dev" in error("--train", str(data))
    assert "--threads -1" in error("--threads", "-1")
    assert "--device nowhere" in error("--device", "nowhere")
    bare = ["train", "heads", "--model", "an4", "--out", str(out)]
    for given in ([], ["--train", str(data)], ["--dev", str(data)]):
        assert "--train and --dev are needed" in failing([*bare, *given], capsys)
    missing = failing([*command(data, out, model=str(tmp_path))], capsys)
    assert str(tmp_path) in missing and "config.yaml" in missing
    assert not out.exists()
