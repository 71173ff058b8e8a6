"""The command line and the Python interface on the embedded model and its spoken examples."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import speechmtp
from speechmtp.cli.main import VERBS, main

EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"
README = Path(speechmtp.__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    code = main(["compare", str(EXAMPLES), "--model", "an4", "--strategies",
                 "ar,verify:depth=3,verify,threshold:theta=0.95,ctc,ctc-only,oracle", "--batch-size", "3",
                 "--out", str(out), "--threads", "1"])  # fmt: skip
    return code, out, json.loads((out / "compare.json").read_text())


def test_compare_writes_every_promised_field(compared):
    code, out, rows = compared
    promised = """strategy options exact identical_to_ar near_ties utterances wer wer_low wer_high trunk_calls
        draft_calls forwards fed tokens tokens_per_call oracle_tokens_per_call calls_per_word calls_per_audio_second
        mean_acceptance_length seconds speedup_vs_ar end_to_end_seconds end_to_end_speedup_vs_ar rtfx batch_size
        device dtype seed""".split()
    assert code == 0
    for row in rows:
        assert set(promised) <= set(row)
    assert {"compare.md", "compare.png", "compare.json"} <= {p.name for p in out.iterdir()}
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_exact_strategies_say_what_ar_says_in_fewer_calls(compared):
    rows = {json.dumps([r["strategy"], r["options"]]): r for r in compared[2]}
    plain = next(r for r in rows.values() if r["strategy"] == "ar")
    assert plain["tokens_per_call"] == 1.0
    assert plain["prompt_calls"] == plain["utterances"]
    for row in rows.values():
        if row["exact"]:
            assert row["identical_to_ar"] == row["utterances"]
            assert row["wer"] == plain["wer"]
        if row["exact"] and row["strategy"] != "ar":
            assert row["trunk_calls"] < plain["trunk_calls"]
            assert row["tokens"] == plain["tokens"]
            assert row["tokens_per_call"] == pytest.approx(row["tokens"] / row["trunk_calls"])
    oracle = next(r for r in rows.values() if r["strategy"] == "oracle")
    assert oracle["tokens_per_call"] == pytest.approx(oracle["oracle_tokens_per_call"])
    only = next(r for r in rows.values() if r["strategy"] == "ctc-only")
    assert only["trunk_calls"] == 0
    assert only["tokens_per_call"] is None


def test_decode_writes_kaldi_text_trace_and_settings(tmp_path):
    assert (
        main(
            ["decode", str(EXAMPLES), "--model", "an4", "--strategy", "verify", "--depth", "3", "--out", str(tmp_path)]
        )
        == 0
    )
    lines = (tmp_path / "text").read_text().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["command", "date", "digits", "letters"]
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert trace["totals"]["emitted"] == sum(u["trace"]["emitted"] for u in trace["utterances"].values())
    assert trace["totals"]["tokens_per_call"] > 1
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert settings["options"] == {"depth": 3}


def test_jobs_and_batches_give_the_same_text(tmp_path):
    texts = []
    for name, options in (("one", []), ("jobs", ["--nj", "2"]), ("batch", ["--batch-size", "4"])):
        out = tmp_path / name
        assert main(["decode", str(EXAMPLES), "--model", "an4", "--strategy", "ctc", "--out", str(out), *options]) == 0
        texts.append((out / "text").read_text())
        assert yaml.safe_load((out / "config.yaml").read_text())["device"] in ("cpu", "cuda"), "where it ran"
    assert texts[0] == texts[1] == texts[2]


def test_decode_then_score(tmp_path, capsys):
    main(["decode", str(EXAMPLES), "--model", "an4", "--out", str(tmp_path / "d")])
    assert main(["score", str(EXAMPLES), str(tmp_path / "d" / "text"), "--out", str(tmp_path / "s")]) == 0
    assert "%WER" in capsys.readouterr().out
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    for key in ("wer", "wer_low", "wer_high", "cer", "words", "ins", "del", "sub", "missing"):
        assert key in summary
    assert summary["words"] == 18


def test_transcribe_any_rate_and_channels(tmp_path, capsys):
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(EXAMPLES / "digits.flac", dtype="float32")
    plain = str(speechmtp.load("an4").transcribe(samples, rate))
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([samples, samples], 1), rate)
    import soxr

    slow = tmp_path / "8k.ogg"
    soundfile.write(slow, soxr.resample(samples, rate, 48000), 48000)
    assert main(["transcribe", "--model", "an4", str(stereo), str(slow), str(EXAMPLES / "digits.flac")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{stereo}: {plain}"
    assert lines[2] == f"{EXAMPLES / 'digits.flac'}: {plain}"
    assert lines[1].startswith(f"{slow}: ")
    assert main(["transcribe", "--model", "an4", "--json", "--strategy", "verify:depth=3", str(stereo)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == plain
    assert found["tokens_per_call"] > 1


def test_python_example_of_the_interface_runs():
    import speechmtp.api

    found = doctest.testmod(speechmtp.api)
    assert found.attempted >= 3
    assert found.failed == 0


def test_readme_python_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # it saves a file
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "no.wav"], "no.wav"),
        (["transcribe", "x.wav", "--model", "none"], "no such model folder"),
        (["transcribe", "x.wav", "--strategy", "verfy"], "did you mean 'verify'"),
        (["transcribe", "x.wav", "--model", "an4", "--strategy", "verify:depth=9"], "at most 7"),
        (["transcribe", "x.wav", "--strategy", "threshold", "--theta", "1.5"], "from 0 to 1"),
        (["transcribe", "x.wav", "--strategy", "ctc:width=2"], "no option 'width'"),
        (["transcribe", "x.wav", "--device", "cuda:7"], "not available"),
        (["transcribe", "x.wav", "--dtype", "int4"], "expected one of"),
        (["transcribe", "x.wav", "--batch-size", "0"], "expected 1 to 4096"),
        (["decode", "no-folder", "--model", "an4", "--out", "OUT"], "no-folder"),
        (["decode", str(EXAMPLES), "--model", "an4", "--strategy", "oracle", "--out", "OUT"], "speechmtp compare"),
        (["compare", str(EXAMPLES), "--model", "an4", "--strategies", "@none.yaml", "--out", "OUT"], "none.yaml"),
        (["train", "asr", "--config", "none.yaml", "--train", "a", "--dev", "b", "--out", "OUT"], "none.yaml"),
        (["train", "tokenizer", "--text", "none", "--vocab-size", "30", "--out", "OUT"], "none"),
        (["results", "none", "--out", "OUT"], "no such experiment"),
        (["transcribe", "x.wav", "--strategy", "oracle"], "speechmtp compare"),
        (
            ["decode", str(EXAMPLES), "--model", "an4", "--nj", "2", "--cmd", "no-launcher", "--out", "OUT"],
            "no-launcher",
        ),
        (["transcribe", "x.wav", "--device", "meta"], "not available"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, message, tmp_path, capsys):
    if not torch_cuda() or "cuda:7" not in arguments:
        code = main([str(tmp_path / "out") if a == "OUT" else a for a in arguments])
        error = capsys.readouterr().err.strip()
        assert code == 2
        assert message in error
        assert error.startswith("speechmtp: error: ")
        assert "\n" not in error


def torch_cuda() -> bool:
    import torch

    return torch.cuda.device_count() > 7


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert "usage: speechmtp" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["transcribe", "decode", "demo", "compare", "tune", "heads report", "train heads"])
def test_help_says_which_models_are_taken_and_what_its_options_call(verb, capsys):
    """Without a kind's name: a new one needs no further line."""
    from speechmtp.models.bases.whisper import TASKS
    from speechmtp.models.locate import EMBEDDED

    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    hears = verb in ("transcribe", "decode", "demo")
    for name in ("model folder", "as transformers has it", "owner/model", *EMBEDDED):
        assert name in shown, name
    assert ("text LM of" in shown) != hears
    if "--task" in shown:
        assert f"--task {{{','.join(TASKS)}}}" in shown
    if "--top-k" in shown:
        assert "--top-k K" in shown and "--no-repeat-ngram-size N" in shown


def test_a_task_that_there_is_not_is_told_before_anything_is_loaded(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["transcribe", "none.wav", "--model", "none", "--task", "sing"])
    assert stopped.value.code == 2 and "--task: invalid choice: 'sing'" in capsys.readouterr().err


def test_importing_the_package_does_no_work():
    code = "import sys, speechmtp; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_array_without_rate_is_refused():
    import numpy as np

    from speechmtp.errors import ConfigError, DataError

    recogniser = speechmtp.load("an4")
    with pytest.raises(ConfigError, match="rate"):
        recogniser.transcribe(np.zeros(16000, np.float32))
    with pytest.raises(DataError, match="too short"):
        recogniser.transcribe(np.zeros(100, np.float32), 16000)
    with pytest.raises(DataError, match="digits"):
        speechmtp.example("none")


def test_integers_and_channels_are_what_they_say():
    import numpy as np
    import soundfile

    from speechmtp.errors import DataError

    recogniser = speechmtp.load("an4")
    samples, rate = soundfile.read(EXAMPLES / "digits.flac", dtype="int16")
    plain = recogniser.transcribe(EXAMPLES / "digits.flac")
    assert recogniser.transcribe(samples, rate) == plain
    assert recogniser.transcribe(np.stack([samples, samples], 1), rate) == plain
    for wrong, message in (
        (np.zeros((2, 16000), np.float32), "expected .N. or"),
        (np.full(16000, np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(DataError, match=message):
            recogniser.transcribe(wrong, rate)
    with pytest.raises(DataError, match="cut it into parts"):
        recogniser.listen(np.zeros(121 * 16000, np.float32))


def test_where_nothing_is_heard_nothing_is_said():
    import numpy as np
    import soundfile
    import torch

    from speechmtp.decoding.strategies import parse_strategy

    recogniser = speechmtp.load("an4")
    speech = recogniser.listen(soundfile.read(EXAMPLES / "digits.flac", dtype="float32")[0])
    with torch.no_grad():
        recogniser.bundle.model.encoder.ctc.bias[-1] += 100  # blank everywhere
    quiet = recogniser.listen(soundfile.read(EXAMPLES / "digits.flac", dtype="float32")[0])
    assert quiet.empty
    silence = np.zeros(32000, np.float32)
    assert speechmtp.load("an4").transcribe(silence, 16000).text == ""
    for name in ("ar", "verify", "ctc", "ctc-only"):
        results = recogniser.decode([quiet, speech, quiet], parse_strategy(name))
        assert [r.text != "" for r in results] == [False, True, False]
        assert results[0].seconds == results[1].seconds  # the batch's, whichever row is asked
        assert results[0].trace.calls == 0
        assert results[0].trace.finished


def test_jobs_through_a_launcher(tmp_path):
    launcher = README.parent / "recipes" / "run.py"
    out = tmp_path / "jobs"
    assert main(["decode", str(EXAMPLES), "--model", "an4", "--nj", "2", "--cmd", f"{sys.executable} {launcher}",
                 "--out", str(out)]) == 0  # fmt: skip
    assert len((out / "text").read_text().splitlines()) == 4
    assert "# Ended (code 0)" in (out / "log" / "decode.2.log").read_text()


def test_a_failing_job_is_named_with_its_reason(tmp_path, capsys):
    (tmp_path / "split" / "1").mkdir(parents=True)
    (tmp_path / "split" / "1" / "trace.json").write_text("{}")  # of an earlier run
    model = str(tmp_path / "no-model")
    assert main(["decode", str(EXAMPLES), "--model", model, "--nj", "2", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "2 of 2 jobs failed" in error and model in error
    assert not (tmp_path / "split" / "1" / "trace.json").exists()


def test_an_utterance_that_fails_in_a_job_is_named_and_the_others_go_on(tmp_path, capsys):
    broken = tmp_path / "set"
    shutil.copytree(EXAMPLES, broken)
    (broken / "letters.flac").write_bytes(b"")
    (broken / "info.json").unlink()
    assert main(["decode", str(broken), "--model", "an4", "--nj", "2", "--out", str(tmp_path / "out"),
                 "--root", str(broken)]) == 2  # fmt: skip
    error, out = capsys.readouterr().err, tmp_path / "out"
    assert "wav.scp:4: letters: " in error and "1 of 4 utterances failed" in error
    assert [line.split()[0] for line in (out / "text").read_text().splitlines()] == ["command", "date", "digits"]
    assert list(json.loads((out / "trace.json").read_text())["failed"]) == ["letters"]


def test_a_file_in_the_way_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["decode", str(EXAMPLES), "--model", "an4", "--out", str(tmp_path / "file" / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_export_keeps_what_the_model_says(tmp_path, capsys):
    card = tmp_path / "card.md"
    card.write_text("a card")
    plain, small = tmp_path / "float", tmp_path / "int"
    assert main(["export", "--model", "an4", "--storage", "float32", "--out", str(plain)]) == 0
    assert main(["export", "--model", str(plain), "--storage", "int8", "--card", str(card), "--out", str(small)]) == 0
    assert (small / "card.md").read_text() == "a card"
    texts = [str(speechmtp.load(m).transcribe(EXAMPLES / "digits.flac")) for m in ("an4", str(plain), str(small))]
    assert len(set(texts)) == 1
    assert main(["export", "--model", "an4", "--out", str(small)]) == 2
    assert "holds a model already" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "limits"), [("an4", {"": 3_000_000}), ("default", {
    "model.safetensors": 29_000_000, "tokenizer.json.xz": 700_000, "heads": 4_000_000, "ctc": 4_000_000, "": 34_000_000,
})])  # fmt: skip
def test_embedded_models_are_small_and_have_their_card(name, limits):
    from speechmtp.models.locate import locate

    folder = locate(name)

    def size(part: str) -> int:
        path = folder / part
        return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())

    assert all(size(part) <= limit for part, limit in limits.items())
    assert size("heads") + size("ctc") <= 4_000_000
    assert "licence" in (folder / "card.md").read_text().lower()
    assert name == "an4" or "MIT" in (folder / "LICENSE").read_text()


def test_tune_and_results_pages(tmp_path, capsys):
    conf = tmp_path / "decode.yaml"
    assert main(["tune", str(EXAMPLES), "--model", "an4", "--out", str(tmp_path / "tune"), "--conf", str(conf),
                 "--thetas", "0.5", "0.99"]) == 0  # fmt: skip
    listed = yaml.safe_load(conf.read_text())["strategies"]
    assert {s.split(":")[0] for s in listed} == {"ar", "verify", "threshold", "ctc", "ctc-only", "oracle"}
    exp = tmp_path / "exp"
    shutil.copytree(tmp_path / "tune", exp / "compare" / "examples")
    (exp / "compare" / "examples" / "tune.json").rename(exp / "compare" / "examples" / "compare.json")
    page = tmp_path / "RESULTS.md"
    page.write_text("# Results\n\nKept text.\n")
    for _ in range(2):  # the second time replaces its own block
        assert main(["results", str(exp), "--out", str(page)]) == 0
    text = page.read_text()
    assert text.count("## exp") == 1
    assert "Kept text." in text
    assert "| ar " in text
