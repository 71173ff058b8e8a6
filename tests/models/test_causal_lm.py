"""Two causal LMs of transformers: whether one can draft for the other."""

from pathlib import Path

import pytest
from small_lm import load_lm, write_lm

from speechmtp.errors import CheckpointError


def test_models_of_another_family_with_one_vocabulary_fit(tmp_path: Path) -> None:
    base, draft = (load_lm(write_lm(tmp_path / family, family)) for family in ("llama", "qwen3"))
    base.check_draft(draft, "base")


def test_another_vocabulary_is_one_line(tmp_path: Path) -> None:
    base, draft = (load_lm(write_lm(tmp_path / name)) for name in ("base", "draft"))
    draft.tokenizer.add_tokens(["zebra"])
    with pytest.raises(CheckpointError, match=r"draft: another vocabulary.*of .*base .*'zebra'") as caught:
        base.check_draft(draft, "base")
    assert "\n" not in str(caught.value)


def test_the_same_tokens_at_other_ids_are_another_vocabulary(tmp_path: Path) -> None:
    base, draft = (load_lm(write_lm(tmp_path / name)) for name in ("base", "draft"))
    vocabulary = draft.tokenizer.get_vocab()
    first, second = sorted(vocabulary)[:2]
    swapped = vocabulary | {first: vocabulary[second], second: vocabulary[first]}
    draft.tokenizer.get_vocab = lambda: swapped
    with pytest.raises(CheckpointError, match="another vocabulary"):
        base.check_draft(draft, "base")


def test_another_number_of_logits_is_refused(tmp_path: Path) -> None:
    """Models of one family may pad the same vocabulary to different sizes."""
    base, draft = (load_lm(write_lm(tmp_path / name)) for name in ("base", "draft"))
    draft.trunk.vocab_size = 72
    with pytest.raises(CheckpointError, match="72 logits, expected 64"):
        base.check_draft(draft, "base")
