"""Files and tensors that are not what a model needs are refused in one line, for every storage and kind of folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from small_lm import load_lm, write_lm
from torch import Tensor, nn

from speechmtp.bundle import load_without_heads, save_bundle
from speechmtp.errors import CheckpointError, SpeechMTPError
from speechmtp.models.storage import SCALE, ZERO, load_state, pack, unpack

State = dict[str, Tensor]
Change = Callable[[State], Any]


class Small(nn.Module):
    """A matrix of 8-bit levels that is tied, a convolution, a norm and a count."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(40, 30), nn.Linear(30, 40, bias=False)
        self.convolution, self.norm = nn.Conv2d(6, 20, 3), nn.LayerNorm(30)
        self.output.weight = self.embedding.weight
        self.register_buffer("count", torch.tensor(7))
        with torch.no_grad():
            levels = torch.randint(0, 256, (40, 30), generator=tiny.generator(0))
            self.embedding.weight.copy_(((levels - 128) * 0.01).half())


def lost(name: str) -> Change:
    return lambda state: state.pop(name)


def put(name: str, make: Callable[[State], Tensor]) -> Change:
    return lambda state: state.update({name: make(state)})


MATRIX = "embedding.weight"
WITHOUT = rf"1 of another dtype or without their scales \(first: {MATRIX} u?int8, expected float\)"
STATES: dict[str, tuple[str, Change, str]] = {
    "missing": ("float32", lost("norm.bias"), r"1 missing \(first: norm.bias\)"),
    "renamed": ("int8", lambda s: s.update(gain=s.pop("norm.weight")), r"1 missing .*, 1 unexpected \(first: gain\)"),
    "shape": ("float32", put(MATRIX, lambda s: s[MATRIX].T.contiguous()),
              r"2 of another shape \(first: embedding.weight \[30, 40\], expected \[40, 30\]\)"),
    "no scale": ("int8", lost(MATRIX + SCALE), WITHOUT.replace("1 of", "2 of")),
    "no scale of unsigned": ("uint8", lost(MATRIX + SCALE), WITHOUT.replace("1 of", "2 of")),
    "no zero point": ("uint8", lost(MATRIX + ZERO), WITHOUT.replace("1 of", "2 of")),
    "zero point of signed": ("int8", put(MATRIX + ZERO, lambda s: torch.tensor(9, dtype=torch.uint8)), WITHOUT[1:]),
    "scales of columns": ("int8", put(MATRIX + SCALE, lambda s: torch.ones(30)), WITHOUT[1:]),
    "one scale": ("int8", put(MATRIX + SCALE, lambda s: torch.tensor(0.1)), WITHOUT[1:]),
    "scales that are integers": ("int8", put(MATRIX + SCALE, lambda s: s[MATRIX + SCALE].int()), WITHOUT[1:]),
    "scale not finite": ("int8", put(MATRIX + SCALE, lambda s: s[MATRIX + SCALE] / 0), WITHOUT[1:]),
    "scales of a convolution": ("int8", put("convolution.weight" + SCALE, lambda s: torch.ones(20, 6)),
                                r"first: convolution.weight int8, expected float"),
    "integers": ("float32", put(MATRIX, lambda s: s[MATRIX].long()), r"embedding.weight int64, expected float"),
    "no integers": ("float32", put("count", lambda s: s["count"].float()), r"count float, expected int64"),
    "not a number": ("float32", put("norm.weight", lambda s: s["norm.weight"] * torch.nan),
                     r"1 with NaN or infinity \(first: norm.weight\)"),
    "infinity": ("uint8", put("norm.weight", lambda s: s["norm.weight"] / 0), r"1 with NaN or infinity"),
    "torn ties": ("float32", put("output.weight", lambda s: s[MATRIX] + 1),
                  r"1 unlike the tensor that they are tied to \(first: output.weight\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(STATES))
def test_states_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    storage, change, message = STATES[name]
    module: Any = Small()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    packed = pack(module.state_dict(), storage)  # type: ignore[arg-type]
    load_state(module, unpack(packed), tmp_path)
    change(packed)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state(module, unpack(packed), tmp_path / "model.safetensors")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'model.safetensors'}: tensors do not fit the configuration: ")
    assert line.endswith("; copy the folder again whole") and "\n" not in line
    if storage == "float32":  # nothing is loaded in part
        assert all(torch.equal(module.state_dict()[n], t) for n, t in before.items())


def test_a_weight_that_is_called_scale_is_a_weight() -> None:
    state = {"gate": torch.ones(2, 2), "gate.scale": torch.full((2,), 3.0), "other.zero": torch.ones(1)}
    assert {n: t.tolist() for n, t in unpack(state).items()} == {n: t.tolist() for n, t in state.items()}


def changed(folder: Path, change: Change, **settings: object) -> Path:
    """The folder with other tensors and settings."""
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
FOREIGN: dict[str, tuple[Change, dict[str, object], str]] = {
    "half of the layers": (lambda s: None, {"num_hidden_layers": 1}, r"9 unexpected \(first: model.layers.1."),
    "a bias": (lambda s: s.update({Q_PROJ[:-6] + "bias": torch.ones(32)}), {}, "1 unexpected"),
    "bytes": (lambda s: s.update({Q_PROJ: s[Q_PROJ].to(torch.int8)}), {}, rf"1 integers without .*{Q_PROJ}"),
    "integers": (lambda s: s.update({Q_PROJ: s[Q_PROJ].long()}), {}, rf"1 integers without .*{Q_PROJ}"),
    "NaN": (lambda s: s.update({Q_PROJ: s[Q_PROJ] * torch.nan}), {}, rf"1 with NaN or infinity .*{Q_PROJ}"),
    "shape": (lambda s: s.update({Q_PROJ: torch.ones(8, 32)}), {}, r"q_proj.weight \[8, 32\], expected \[32, 32\]"),
}


@pytest.mark.parametrize("name", list(FOREIGN))
def test_a_text_lm_that_transformers_would_load_differently_is_refused(name: str, tmp_path: Path) -> None:
    change, settings, message = FOREIGN[name]
    changed(write_lm(tmp_path / "lm"), change, **settings)
    with pytest.raises(CheckpointError, match=f"do not fit the configuration: .*{message}") as caught:
        load_lm(tmp_path / "lm")
    assert "\n" not in str(caught.value) and str(tmp_path / "lm") in str(caught.value)


def test_tensors_that_change_nothing_are_skipped(tmp_path: Path) -> None:
    """Buffers that earlier versions stored, a stored copy of a tied matrix, and heads for other tasks."""
    plain = load_lm(write_lm(tmp_path / "lm")).trunk.state_dict()
    old: State = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "v_head.weight": torch.ones(1, 32)}
    changed(tmp_path / "lm", lambda s: s.update(old, **{"lm_head.weight": s["model.embed_tokens.weight"].clone()}))
    found = load_lm(tmp_path / "lm").trunk.state_dict()
    assert all(torch.equal(found[n], t) for n, t in plain.items())
    folder = tiny.write_seq2seq(tmp_path / "speech")
    changed(folder, lambda s: s.update({"model.decoder.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}))
    load_without_heads(str(folder))


@pytest.mark.parametrize(("family", "key"), [("moonshine", "decoder_num_hidden_layers"), ("whisper", "decoder_layers")])
def test_a_recogniser_that_would_run_half_of_its_layers_is_refused(family: str, key: str, tmp_path: Path) -> None:
    folder = changed(tiny.write_seq2seq(tmp_path / "m", family), lambda s: None, **{key: 1})
    with pytest.raises(CheckpointError, match=r"unexpected \(first: model\.decoder\.layers\.1\."):
        load_without_heads(str(folder))


def test_a_packed_recogniser_without_a_scale_is_refused(tmp_path: Path) -> None:
    save_bundle(load_without_heads(str(tiny.write_seq2seq(tmp_path / "raw"))), tmp_path / "packed", "int8")
    scale = next(n for n in load_file(tmp_path / "packed" / "model.safetensors") if n.endswith(SCALE))
    changed(tmp_path / "packed", lost(scale))
    with pytest.raises(CheckpointError, match=f"without their scales .first: {scale.removesuffix(SCALE)} int8"):
        load_without_heads(str(tmp_path / "packed"))


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"),
                "a pointer of Git LFS, not the file itself; run git lfs pull"),
    "empty": (lambda p: p.write_bytes(b""), "an empty file; copy it again whole"),
}  # fmt: skip


@pytest.mark.parametrize("damage", list(FILES))
def test_pointers_and_empty_files_are_named(damage: str, tmp_path: Path) -> None:
    spoil, message = FILES[damage]
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        folder = tiny.write_seq2seq(tmp_path / name)
        spoil(folder / name)
        with pytest.raises(CheckpointError, match=f"{folder / name}: {message}"):
            load_without_heads(str(folder))


@pytest.mark.parametrize("kept", [1, 8, 9, 100, -1])
def test_a_file_that_was_cut_is_one_line(kept: int, tmp_path: Path) -> None:
    folder = tiny.write_seq2seq(tmp_path / "m")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=f"{path}: cannot be read: .*; copy it again whole$") as caught:
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{folder}: no weights, .*; copy the folder again whole$"):
        load_without_heads(str(folder))


ODD: dict[str, tuple[str, dict[str, object], str]] = {
    "no settings": ("generation_config.json", {}, "not generation settings "),
    "kind": ("config.yaml", {"format_version": 1, "model": {"kind": []}}, r"model\.kind: \[\] is not one of"),
}


@pytest.mark.parametrize("name", list(ODD))
def test_what_libraries_raise_is_one_line(name: str, tmp_path: Path) -> None:
    file, content, message = ODD[name]
    folder = tiny.write_seq2seq(tmp_path / "m")
    (folder / file).write_text(json.dumps(content or []))
    with pytest.raises(SpeechMTPError, match=message) as caught:
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json", "generation_config.json", "config.json"])
def test_json_files_of_a_text_lm_that_hold_something_else_are_one_line(name: str, tmp_path: Path) -> None:
    folder = write_lm(tmp_path / "lm")
    (folder / name).write_text("3")
    with pytest.raises(CheckpointError) as caught:
        load_lm(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_feature_extractor_that_cannot_compute_is_one_line(tmp_path: Path) -> None:
    folder = tiny.write_seq2seq(tmp_path / "m", "whisper")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "x"}))
    model = load_without_heads(str(folder)).model
    with pytest.raises(CheckpointError, match=r"its preprocessor_config\.json gives no frames: Invalid padding"):
        model.listen(torch.zeros(8000))


@pytest.mark.parametrize(("kind", "name"), [("moonshine", "decoder_num_hidden_layers"), ("whisper", "encoder_layers"),
    ("moonshine", "hidden_size"), ("whisper", "decoder_ffn_dim")])  # fmt: skip
def test_sizes_that_no_model_has_are_refused_before_anything_is_allocated(kind: str, name: str, tmp_path: Path) -> None:
    folder = tiny.write_seq2seq(tmp_path / "m", kind)
    path = folder / "config.json"
    known = json.loads(path.read_text())
    assert name in known
    for value in (10**9, -1):
        path.write_text(json.dumps(known | {name: value}))
        with pytest.raises(CheckpointError, match=f"{path}: {name}={value}, expected at most"):
            load_without_heads(str(folder))
