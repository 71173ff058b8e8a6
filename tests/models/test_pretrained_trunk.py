"""A trunk from a transformers folder: frozen, trained in full or by LoRA, the same states on the same cache."""

import pytest
import torch
from tiny import trunk

from speechmtp.errors import CheckpointError
from speechmtp.models.trunk import PretrainedTrunkConfig, build_trunk


@pytest.mark.parametrize("train", ["frozen", "full", "lora"])
def test_a_folder_gives_the_same_states(tmp_path, train):
    if train == "lora":
        pytest.importorskip("peft", reason="LoRA needs the extra `train`")
    base = trunk().float().eval()
    base.model.save_pretrained(tmp_path)
    loaded = build_trunk(PretrainedTrunkConfig(name=str(tmp_path), train=train, lora_rank=2), base.vocab_size).eval()
    trained = sum(p.numel() for p in loaded.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in base.parameters())
    assert {"frozen": trained == 0, "full": trained == whole, "lora": 0 < trained < whole}[train]
    x, positions = torch.randn(2, 5, base.width), torch.arange(5).repeat(2, 1)
    valid = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        wanted = base(x, positions, valid).hidden
        assert torch.allclose(loaded(x, positions, valid).hidden, wanted, atol=1e-6)
        assert torch.allclose(loaded.extend(x, positions, None, loaded.new_cache(2)).hidden, wanted, atol=1e-5)


def test_what_is_no_model_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no weights, expected") as caught:
        build_trunk(PretrainedTrunkConfig(name=str(tmp_path)), 11)
    assert "\n" not in str(caught.value)
