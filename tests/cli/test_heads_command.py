"""How users see and choose head sets: --heads, heads=NAME, `heads list` and `heads report`, on the embedded model."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import speechmtp
from speechmtp.cli.main import main
from speechmtp.errors import CheckpointError, ConfigError

EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"
BIASED = "biased: text, not the model's own output"


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """A model folder and head folders beside it: `chain` (depth 3), `narrow` with a shortlist, `stale`."""
    import torch

    from speechmtp.bundle import load_bundle
    from speechmtp.heads.chain import ChainHeadsConfig
    from speechmtp.heads.folder import save_heads
    from speechmtp.heads.latent import LatentHeadsConfig
    from speechmtp.heads.table import build_heads
    from speechmtp.models.locate import locate

    folder = tmp_path_factory.mktemp("sets")
    shutil.copytree(locate("an4"), folder / "model")
    bundle = load_bundle("an4")
    trunk, digest = bundle.model.trunk, bundle.trunk_sha256
    torch.manual_seed(0)
    chain = build_heads(ChainHeadsConfig(depth=3), trunk.shape)
    chain.start_from(trunk)
    save_heads(chain, folder / "chain", "an4", digest, "float32")
    narrow = build_heads(LatentHeadsConfig(depth=2, shortlist=12), trunk.shape)
    with torch.no_grad():
        narrow.weight.copy_(bundle.heads["latent"].weight[:2])
    save_heads(narrow, folder / "narrow", "an4", digest, "float32")
    save_heads(bundle.heads["latent"], folder / "stale", "elsewhere", "0" * 64, "int8")
    return folder


def lines_of(text: str, name: str) -> list[str]:
    """Cells of the table row of `name`."""
    return next(line.split() for line in text.splitlines() if line.startswith(name))


def failing(arguments: list[str], capsys) -> str:
    """The one line of a command that fails."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("speechmtp: error: ")
    assert "\n" not in error
    return error


def test_list_shows_own_and_other_head_sets(sets, capsys):
    others = [part for name in ("chain", "narrow", "stale") for part in ("--heads", str(sets / name))]
    assert main(["heads", "list", "--model", str(sets / "model"), "--heads", "latent", *others]) == 0
    out = capsys.readouterr().out
    heading = out.splitlines()[0]
    assert all(word in heading for word in ("name", "family", "depth", "taps", "parameters", "shortlist", "base"))
    assert "size on disk" in heading and "trained on this trunk" in heading
    assert lines_of(out, "latent ")[:6] == ["latent", "latent", "7", "-", "114688", "-"]
    assert lines_of(out, "latent ")[-2:] == ["an4", "yes"]
    chain = lines_of(out, str(sets / "chain"))
    assert chain[1:3] == ["chain", "3"] and chain[3] != "-" and chain[-1] == "yes"
    narrow = lines_of(out, str(sets / "narrow"))
    assert narrow[4:6] == [str(2 * 128 * 128), "12"]
    assert lines_of(out, str(sets / "stale"))[-2:] == ["elsewhere", "no"]


def test_list_of_a_model_without_heads(sets, tmp_path, capsys):
    shutil.copytree(sets / "model", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "heads")
    assert main(["heads", "list", "--model", str(tmp_path / "bare")]) == 0
    assert "no heads" in capsys.readouterr().out
    error = failing(
        ["heads", "report", str(EXAMPLES), "--model", str(tmp_path / "bare"), "--out", str(tmp_path)], capsys
    )
    assert "no heads" in error
    error = failing(["transcribe", "x.wav", "--model", str(tmp_path / "bare"), "--strategy", "verify"], capsys)
    assert "strategy verify: " in error and "no heads" in error
    assert main(["transcribe", "--model", str(tmp_path / "bare"), str(EXAMPLES / "digits.flac")]) == 0


def test_the_prediction_is_what_compare_measures(sets, tmp_path, capsys):
    """Walked tokens per call at every depth equal those of `verify`, exactly; so do the ceilings."""
    chosen = ["--heads", "latent", "--heads", str(sets / "chain"), "--heads", str(sets / "narrow")]
    model, out = str(sets / "model"), tmp_path / "report"
    assert main(["heads", "report", str(EXAMPLES), "--model", model, *chosen, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    wanted = {("latent", 7), ("latent", 3), ("chain", 3), ("chain", 1), ("narrow", 2)}
    listed = ",".join(f"verify:depth={depth},heads={name}" for name, depth in sorted(wanted))
    command = ["compare", str(EXAMPLES), "--model", model, *chosen, "--strategies", f"ar,{listed},verify"]
    assert main([*command, "--out", str(tmp_path / "c")]) == 0
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())
    predicted = {(h["name"], d["depth"]): d for h in report["heads"] for d in h["depths"]}
    assert [h["name"] for h in report["heads"]] == ["latent", "chain", "narrow"]
    for row in rows[1:]:
        found = predicted[row["options"].get("heads", "latent"), row["options"]["depth"]]
        assert found["tokens_per_call"] == row["tokens_per_call"]
        assert found["ceiling"] == row["oracle_tokens_per_call"]
    assert len({row["tokens_per_call"] for row in rows}) > 4, "head sets and depths differ"
    for head in report["heads"]:
        full = predicted[head["name"], head["depth"]]
        assert (head["tokens_per_call"], head["ceiling"]) == (full["tokens_per_call"], full["ceiling"])
        assert head["product_note"] == "biased: the text is harder after a miss"
        assert f"{head['tokens_per_call']:.2f} tokens per call of at most {head['ceiling']:.2f}" in shown
    assert predicted["narrow", 1]["outside"] > 0 and predicted["latent", 1]["outside"] == 0
    assert report["reference"] == "ar" and report["note"] is None and BIASED not in shown
    page = (out / "report.md").read_text()
    assert page.count("| depth") == 3 and "harder after a miss" in page and "report.png" in page
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_drafting_time_is_measured(sets, tmp_path):
    command = [
        "compare",
        str(EXAMPLES),
        "--model",
        str(sets / "model"),
        "--batch-size",
        "3",
        "--strategies",
        "ar,verify,ctc-only",
    ]
    assert main([*command, "--out", str(tmp_path)]) == 0
    plain, verify, only = json.loads((tmp_path / "compare.json").read_text())
    assert 0 < plain["draft_ms_per_call"] < verify["draft_ms_per_call"]
    assert verify["draft_ms_per_call"] < 1000 * verify["seconds"]
    assert only["draft_ms_per_call"] is None


def test_the_time_of_a_batch_is_divided_among_its_rows():
    import soundfile

    from speechmtp.decoding.strategies import parse_strategy
    from speechmtp.types import Trace, sum_traces

    recogniser = speechmtp.load("an4")
    heard = [recogniser.listen(soundfile.read(EXAMPLES / f"{n}.flac", dtype="float32")[0]) for n in ("digits", "date")]
    results = recogniser.decode(heard, parse_strategy("verify"))
    total = sum_traces(r.trace for r in results)
    assert total.draft_seconds == pytest.approx(sum(r.trace.draft_seconds for r in results))
    assert 0 < total.draft_seconds < results[0].seconds
    assert Trace(draft_seconds=1.0) == Trace(), "times do not tell traces apart"


def test_ar_is_decoded_once_and_kept_beside_the_heads(sets, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(sets / "model", model)
    command = ["heads", "report", str(EXAMPLES), "--model", str(model)]
    assert main(command) == 0
    beside = model / "heads" / "latent" / "report"
    kept = json.loads((beside / "examples.json").read_text())
    assert set(kept["tokens"]) == {"command", "date", "digits", "letters"}
    first = json.loads((beside / "examples" / "report.json").read_text())
    assert {p.name for p in (beside / "examples").iterdir()} == {"report.json", "report.md", "report.png"}
    assert first["reference_source"] == "decoded now"
    assert main(command) == 0
    second = json.loads((beside / "examples" / "report.json").read_text())
    assert second["reference_source"] == "kept tokens"
    assert second["heads"] == first["heads"]
    for change in ({"trunk_sha256": "other"}, {"heard_sha256": "other"}, {"tokens": None}):
        (beside / "examples.json").write_text(json.dumps(kept | change))
        assert main(command) == 0
        again = json.loads((beside / "examples" / "report.json").read_text())
        assert again["reference_source"] == "decoded now"
    assert json.loads((beside / "examples.json").read_text()) == kept
    assert main([*command, "--out", str(tmp_path / "out")]) == 0  # found beside the heads, though written elsewhere
    assert json.loads((tmp_path / "out" / "report.json").read_text())["reference_source"] == "kept tokens"
    capsys.readouterr()
    shutil.rmtree(beside)
    beside.write_text("in the way")
    error = failing(command, capsys)
    assert str(beside) in error and "--out" in error
    error = failing(["heads", "report", str(EXAMPLES), "--model", "an4"], capsys)
    assert "part of the installed package" in error and "--out" in error


def test_transcripts_as_reference_are_marked_everywhere(sets, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "heads",
        "report",
        str(EXAMPLES),
        "--model",
        str(sets / "model"),
        "--reference",
        "text",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["note"] == BIASED
    tokenizer = speechmtp.load("an4").bundle.tokenizer
    said = [line.split(" ", 1)[1] for line in (EXAMPLES / "text").read_text().splitlines()]
    assert report["tokens"] == sum(len(tokenizer.encode(text)) + 1 for text in said)
    assert not (out / "examples.json").exists()
    shown, page = capsys.readouterr().out, (out / "report.md").read_text()
    for text in (shown, page):
        assert BIASED in next(line for line in text.splitlines() if "tokens per call of at most" in line)
    (tmp_path / "set").mkdir()
    for name in ("wav.scp", "utt2spk", "spk2utt", "info.json"):
        shutil.copy(EXAMPLES / name, tmp_path / "set" / name)
    (tmp_path / "set" / "text").write_text("\n".join((EXAMPLES / "text").read_text().splitlines()[1:]) + "\n")
    command[2] = str(tmp_path / "set")
    error = failing([*command, "--root", str(EXAMPLES)], capsys)
    assert "text" in error and "command" in error


def test_heads_of_another_trunk_need_the_option(sets, tmp_path, capsys, monkeypatch):
    stale = str(sets / "stale")
    command = ["transcribe", str(EXAMPLES / "digits.flac"), "--model", "an4", "--strategy", "verify", "--heads", stale]
    error = failing(command, capsys)
    assert stale in error and "(elsewhere)" in error and "--allow-stale-heads" in error
    assert main([*command, "--allow-stale-heads"]) == 0
    capsys.readouterr()

    def here(command, folders, logs, jobs):
        """The jobs' own commands, in this process."""
        for job, folder in enumerate(folders, 1):
            folder.mkdir(parents=True)
            assert main([*command[3:], "--shard", f"{job}/{jobs}", "--out", str(folder)]) == 0
        return []

    monkeypatch.setattr("speechmtp.cli.decode._run_here", here)
    jobs = ["decode", str(EXAMPLES), "--model", "an4", "--strategy", "verify", "--heads", stale, "--out", str(tmp_path)]
    assert main([*jobs, "--nj", "2", "--allow-stale-heads"]) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["heads"] == [stale]
    with pytest.raises(CheckpointError, match="another trunk"):
        speechmtp.load("an4", heads=stale)
    assert list(speechmtp.load("an4", heads=[stale], allow_stale_heads=True).bundle.heads) == ["stale"]


def test_wrong_heads_are_one_line(sets, tmp_path, capsys):
    model, x = str(sets / "model"), ["transcribe", "x.wav", "--model", str(sets / "model")]
    error = failing([*x, "--heads", "chian"], capsys)
    assert "--heads chian" in error and "the model's own: latent" in error
    (tmp_path / "empty").mkdir()
    error = failing(["heads", "list", "--model", model, "--heads", str(tmp_path / "empty")], capsys)
    assert f"--heads {tmp_path / 'empty'}" in error and "config.yaml is missing" in error
    shutil.copytree(sets / "chain", tmp_path / "latent")
    error = failing([*x, "--heads", "latent", "--heads", str(tmp_path / "latent")], capsys)
    assert str(tmp_path / "latent") in error and str(sets / "model" / "heads" / "latent") in error
    error = failing([*x, "--heads", model], capsys)
    assert "config.yaml" in error
    (tmp_path / "latent" / "heads.safetensors").unlink()
    assert "heads.safetensors" in failing([*x, "--heads", str(tmp_path / "latent")], capsys)


def test_strategies_choose_among_the_heads_given(sets, capsys):
    chosen = ["--model", "an4", "--heads", str(sets / "chain"), "--heads", "latent"]
    error = failing(["transcribe", "x.wav", *chosen, "--strategy", "verify:heads=nope"], capsys)
    assert "strategy verify: heads 'nope'" in error and "chain, latent" in error
    error = failing(["transcribe", "x.wav", *chosen, "--strategy", "verify:depth=7"], capsys)
    assert "depth=7, expected at most 3" in error and "give depth=3" in error
    error = failing(["transcribe", "x.wav", *chosen, "--strategy", "threshold:depth=8,heads=latent"], capsys)
    assert "depth=8, expected at most 7" in error
    digits = str(EXAMPLES / "digits.flac")
    calls = {}
    for strategy in ("verify:depth=3", "verify:depth=3,heads=chain", "verify:depth=3,heads=latent"):
        assert main(["transcribe", digits, *chosen, "--strategy", strategy, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        calls[strategy] = found["calls"]
    assert calls["verify:depth=3"] == calls["verify:depth=3,heads=chain"] > calls["verify:depth=3,heads=latent"]


def test_the_python_interface_names_head_sets(sets):
    recogniser = speechmtp.load("an4", heads=[sets / "chain", "latent"])
    assert recogniser.heads is recogniser.heads_named() is recogniser.heads_named("chain")
    assert recogniser.heads_named("latent").depth == 7
    with pytest.raises(ConfigError, match="chain, latent"):
        recogniser.heads_named("other")
    found = recogniser.transcribe(EXAMPLES / "digits.flac", strategy="verify:depth=2,heads=latent")
    assert found.text.startswith("FOUR")
    assert list(speechmtp.load("an4").bundle.heads) == ["latent"]
