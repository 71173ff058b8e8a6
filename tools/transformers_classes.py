"""Write docs/transformers_classes.md: which classes of the installed transformers run as trunks, exactly or not at all.

    python tools/transformers_classes.py --cases 200 --draws 200000 --jobs 2 --out docs/transformers_classes.md

Every class gets a small model with random weights in float64, and a process of its own, which is stopped after
`--seconds`. `--only TEXT` takes the rows whose names contain it; `--found FILE` keeps verdicts, one JSON line each, and
a second run goes on behind those that are there.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from class_checks import Disagreement, checked
from small_models import Setting, small_config, small_model
from transformers.models.auto import modeling_auto as auto

from speechmtp.errors import SpeechMTPError
from speechmtp.models.bases.table import claimed
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk

Verdict = dict[str, Any]
Row = tuple[str, Setting, Verdict]
ROPE = {"rope_theta": 10000.0}
VARIANTS = (
    Setting("llama", "LlamaForCausalLM", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 2.0}},
            title="linear rotary positions"),
    Setting("llama", "LlamaForCausalLM", {"max_position_embeddings": 16, "rope_parameters": {
        **ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}}, title="yarn"),
    Setting("llama", "LlamaForCausalLM", {"rope_parameters": {
        **ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8}}, title="llama3 rotary positions"),
    Setting("llama", "LlamaForCausalLM", {"max_position_embeddings": 8, "rope_parameters": {
        **ROPE, "rope_type": "dynamic", "factor": 2.0}}, title="dynamic rotary positions"),
    Setting("llama", "LlamaForCausalLM", {"rope_parameters": {
        **ROPE, "rope_type": "longrope", "factor": 2.0, "original_max_position_embeddings": 8,
        "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}, title="longrope"),
    Setting("opt", "OPTForCausalLM", {"max_position_embeddings": 12}, title="texts that reach its last position"),
    Setting("xglm", "XGLMForCausalLM", {"max_position_embeddings": 4}, title="texts longer than its positions"),
    Setting("biogpt", "BioGptForCausalLM", {"max_position_embeddings": 12}, title="texts that reach its last position"),
)  # fmt: skip
ROLES = {
    "Causal LMs": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "Encoder-decoders and speech models": {
        **auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, **auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    },
}  # fmt: skip
RECOGNISERS = {"whisper", "moonshine"}  # encoder-decoders that are trunks
READERS = {"qwen2_audio", "moss_transcribe_diarize"}  # speech models that decode like text LMs


def settings_of(role: str) -> list[Setting]:
    """Return the settings of a role's rows, in the order of names; those with full attention follow refusals."""
    extra = VARIANTS if role == "Causal LMs" else ()
    found = [Setting(kind, name) for kind, name in ROLES[role].items()]
    return sorted([*found, *extra], key=lambda one: one.name.lower())


def verdict(setting: Setting, seq2seq: bool, cases: int, draws: int, new: int = 10) -> Verdict:
    """Return the verdict on one setting: `exact`, `refused`, `untried` or `WRONG`, and why; see `checked`."""
    if seq2seq and setting.model_type not in RECOGNISERS | READERS:
        return {"verdict": "refused", "why": _refusal(setting.model_type)}
    model, dtype, why = None, torch.float64, ""
    for dtype in (torch.float64, torch.float32):
        try:
            kind = getattr(transformers, setting.class_name)
            model = small_model(kind, small_config(setting), 0, dtype)
            if not seq2seq:
                model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)
            break
        except ImportError as error:
            return {"verdict": "untried", "why": f"needs a package: {_line(error)}"}
        except Exception as error:
            why = why or f"{type(error).__name__}: {_line(error)}"
    if model is None:
        return {"verdict": "untried", "why": f"no small model of it can be made: {why}"}
    try:
        trunk = Seq2SeqTrunk(model) if seq2seq and setting.model_type in RECOGNISERS else Trunk(model)
        trunk.eval()
    except SpeechMTPError as error:
        return {"verdict": "refused", "why": str(error).removeprefix("trunk: ")}
    try:
        counts = checked(trunk, cases, draws, new)
    except Disagreement as error:
        return {"verdict": "WRONG", "why": _line(error)}
    except Exception as error:
        return {"verdict": "untried", "why": f"{type(error).__name__}: {_line(error)}"}
    why = "" if dtype == torch.float64 else "in float32, since its forward fails in float64"
    return {"verdict": "exact", "why": why, "tail": repr(trunk.tail), **counts}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _refusal(model_type: str) -> str:
    """Return what loading a folder of such a model says; only its configuration is looked at."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "folder"
        folder.mkdir()
        try:
            transformers.AutoConfig.for_model(model_type).save_pretrained(folder)
        except Exception:
            (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        kind = claimed(folder)
        assert kind is not None
        try:
            kind.load(folder, kind.default_settings(), None)
        except SpeechMTPError as error:
            return str(error).replace(str(folder), "folder")
    return "loaded"


# Processes


def run(
    settings: list[tuple[str, Setting]], decide: Callable[..., Verdict], jobs: int, seconds: float
) -> Iterator[Row]:
    """Yield the verdict on each setting of each role, `jobs` at a time, each from a process of its own."""
    context = multiprocessing.get_context("fork")
    waiting, going = list(reversed(settings)), []
    while waiting or going:
        while waiting and len(going) < jobs:
            role, setting = waiting.pop()
            mine, theirs = context.Pipe(False)
            process = context.Process(target=_told, args=(theirs, decide, role, setting))
            process.start()
            theirs.close()
            going.append((process, mine, time.monotonic(), role, setting))
        for one in list(going):
            process, pipe, began, role, setting = one
            late = time.monotonic() - began > seconds
            if not pipe.poll(0.02) and process.is_alive() and not late:
                continue
            found: Verdict = {"verdict": "untried", "why": f"took longer than {seconds:g} s"}
            if not late or pipe.poll():
                try:
                    found = pipe.recv()
                except EOFError:
                    process.join()
                    found = {"verdict": "untried", "why": f"its process ended with code {process.exitcode}"}
            process.kill()
            process.join()
            going.remove(one)
            found["seconds"] = round(time.monotonic() - began, 1)
            if found["verdict"] == "refused" and "sliding_attention" in found["why"] and not setting.full:
                full = Setting(setting.model_type, setting.class_name, setting.given, True)
                waiting.append((role, full))
            yield role, setting, found


def _told(pipe: Any, decide: Callable[..., Verdict], role: str, setting: Setting) -> None:
    torch.set_num_threads(1)
    pipe.send(decide(setting, role != "Causal LMs"))


# The page


def page(rows: dict[str, dict[str, Verdict]], command: str, cases: int, draws: int) -> str:
    """Return the page: a table for each role of `rows`, which have verdicts by name."""
    lines = [
        "# Classes of transformers", "",
        f"Made by `{command}` on {date.today()} with transformers {transformers.__version__} and torch "
        f"{torch.__version__}.", "",
        "Every class of transformers' mappings for causal LMs, encoder-decoders and speech recognition, as a small "
        "model with random weights in float64:", "",
        f"- **exact**: {cases} texts of 10 tokens are those of `generate`, each decoded twice in batches of 4 whose "
        "rows have `ar`, `verify` (random heads), `lookup` and `oracle` (with a wrong token now and then), and every "
        "eighth alone by `ar`, `verify` or `lookup`; and the law of the first drawn token is the model's own softmax, "
        f"compared for every token and with {draws} draws (chi-square, p > 0.001).",
        "- **refused**: loading says so in one line, here as it stands.",
        "- **untried**: why.", "",
        "Rows of classes whose own configuration has other layers are followed by one with full attention only.",
    ]  # fmt: skip
    for role, found in rows.items():
        kinds = [one["verdict"] for one in found.values()]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("exact", "refused", "untried"))
        lines += ["", f"## {role}", "", f"{counts}.", ""]
        lines += ["| class | verdict | why |", "|---|---|---|"]
        lines += [f"| {name} | {one['verdict']} | {one['why'].replace('|', '/')} |" for name, one in found.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8, help="texts of each class")
    parser.add_argument("--draws", type=int, default=20000, help="first tokens drawn of each class")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seconds", type=float, default=120, help="most seconds a class")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    parser.add_argument("--found", type=Path, help="verdicts to go on from and to add to")
    parser.add_argument("--out", type=Path, help="the page to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Verdict]] = {role: {} for role in ROLES}
    if given.found is not None and given.found.exists():
        for line in given.found.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            rows[one.pop("role")][one.pop("name")] = one
    wanted = [
        (role, one) for role in ROLES for one in settings_of(role)
        if given.only.lower() in one.name.lower() and one.name not in rows[role]
    ]  # fmt: skip
    decide = lambda setting, seq2seq: verdict(setting, seq2seq, given.cases, given.draws)  # noqa: E731
    for role, setting, one in run(wanted, decide, given.jobs, given.seconds):
        print(setting.name, json.dumps(one), flush=True)
        rows[role][setting.name] = one
        if given.found is not None:
            with given.found.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"role": role, "name": setting.name, **one}) + "\n")
    if given.out is not None:
        command = f"python tools/transformers_classes.py --cases {given.cases} --draws {given.draws}"
        ordered = {role: dict(sorted(found.items(), key=lambda item: item[0].lower())) for role, found in rows.items()}
        given.out.write_text(page(ordered, command, given.cases, given.draws), encoding="utf-8")


if __name__ == "__main__":
    main()
