"""Classes of transformers that the page calls exact, and the tool that finds it out."""

import importlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from speechmtp.models.agreement import Tail
from speechmtp.models.trunk import Trunk

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
tool: Any = importlib.import_module("transformers_classes")
checks: Any = importlib.import_module("class_checks")
small: Any = importlib.import_module("small_models")

PAGE = (ROOT / "docs" / "transformers_classes.md").read_text(encoding="utf-8")


def claimed() -> list[tuple[str, Any]]:
    """Role and setting of every row of the page that is exact; without those that this transformers does not have."""
    known = {}
    for role in tool.ROLES:
        for one in tool.settings_of(role):
            for full in (False, True):
                setting = small.Setting(one.model_type, one.class_name, one.given, full, one.title)
                known[role, setting.name] = role, setting
    found = []
    for role, part in zip(re.findall(r"^## (.+)$", PAGE, re.M), re.split(r"^## .+$", PAGE, flags=re.M)[1:]):
        names = re.findall(r"^\| (.+?) \| exact \|", part, re.M)
        found += [known[role, name] for name in names if (role, name) in known]
    return found


CLAIMED = claimed()


def test_the_page_claims_what_it_should() -> None:
    names = {setting.class_name for _, setting in CLAIMED}
    assert len(CLAIMED) > 80 and "| WRONG |" not in PAGE
    assert names >= {"LlamaForCausalLM", "Qwen3ForCausalLM", "GraniteForCausalLM", "OPTForCausalLM"}


@pytest.mark.parametrize(("role", "setting"), CLAIMED, ids=[setting.name for _, setting in CLAIMED])
def test_a_class_that_is_claimed_is_exact(role: str, setting: Any) -> None:
    found = tool.verdict(setting, role != "Causal LMs", 2, 0, 4)
    if found["verdict"] == "untried" and f"transformers {tool.transformers.__version__} " not in PAGE:
        pytest.skip(f"not in this version of transformers: {found['why']}")
    assert found["verdict"] == "exact", found["why"]


def llama() -> Trunk:
    """A small trunk."""
    setting = small.Setting("llama", "LlamaForCausalLM")
    kind = tool.transformers.LlamaForCausalLM
    return Trunk(small.small_model(kind, small.small_config(setting))).eval()


def test_another_law_and_other_texts_are_found() -> None:
    trunk = llama()
    trunk.tail = Tail(0.5)
    with pytest.raises(checks.Disagreement, match="first token's law is"):
        checks.checked(trunk, 1, 0, 3)
    trunk.tail = Tail(-1.0)
    with pytest.raises(checks.Disagreement, match=r"ar in a batch of 1 says \[.*generate \["):
        checks.checked(trunk, 1, 0, 3)


def test_texts_that_accept_drafts_vary() -> None:
    counts = checks.checked(llama(), 8, 100)
    assert counts["accepted"] > 15 and counts["distinct"] > 0.4


def test_counts_fit_their_law_and_no_other() -> None:
    law = torch.tensor([0.5, 0.3, 0.1999, 0.0001], dtype=torch.float64)
    counts = torch.tensor([5040, 2960, 1999, 1])
    assert checks.fit(counts, law) > 0.1
    assert checks.fit(counts, torch.tensor([0.45, 0.35, 0.1999, 0.0001], dtype=torch.float64)) < 1e-6


def test_processes_that_hang_or_die_are_verdicts() -> None:
    def decide(setting: Any, seq2seq: bool) -> dict[str, Any]:
        if setting.model_type == "hangs":
            time.sleep(60)
        if setting.model_type == "dies":
            os._exit(3)
        return {"verdict": "refused", "why": "x has sliding_attention layers"}

    settings = [("Causal LMs", small.Setting(name, "X")) for name in ("hangs", "dies", "slides")]
    rows = {setting.name: one for _, setting, one in tool.run(settings, decide, 3, 0.5)}
    assert rows["X (hangs)"]["why"] == "took longer than 0.5 s"
    assert rows["X (dies)"]["why"] == "its process ended with code 3"
    assert rows["X (slides), all layers with full attention"]["verdict"] == "refused"
    text = tool.page({"Causal LMs": rows}, "python x", 2, 100)
    assert "| X (dies) | untried | its process ended with code 3 |" in text and "0 exact, 2 refused, 2 untried." in text


def test_a_folder_of_another_kind_is_refused_by_its_configuration() -> None:
    for kind in ("bart", "t5", "speech_to_text"):
        assert tool._refusal(kind) == (
            f"folder: a {kind} model of transformers, expected Moonshine, Whisper, Qwen2-Audio or a text LM"
        )
