"""What is no Whisper in CTranslate2's format, or not all of one, is named in one line, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from whisper_files import SMALL, binary, model_of, tool, variables_of, write_folder

from speechmtp.errors import CheckpointError

Spoil = Callable[[Path, dict[str, Tensor]], None]
KEYS = "encoder/layer_0/self_attention/linear_0"


def changed(**settings: Any) -> Spoil:
    """Another header, or variables changed by a function."""

    def spoil(folder: Path, variables: dict[str, Tensor]) -> None:
        edit = settings.get("edit", lambda given: given)
        rest = {name: value for name, value in settings.items() if name != "edit"}
        (folder / "model.bin").write_bytes(binary(edit(dict(variables)), **rest))

    return spoil


def with_variable(name: str, value: Tensor) -> Spoil:
    """One variable more, or another."""
    return changed(edit=lambda given: given | {name: value})


def without(name: str) -> Spoil:
    """A variable less."""
    return changed(edit=lambda given: {key: value for key, value in given.items() if key != name})


def key_bias(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The bias of a fused projection, one of its numbers for keys not zero."""
    bias = given[f"{KEYS}/bias"].clone()
    bias[tiny.WIDTH] = 1e-3
    return given | {f"{KEYS}/bias": bias}


def bytes_of(edit: Callable[[bytes], bytes]) -> Spoil:
    """Another model.bin."""
    return lambda folder, _: (folder / "model.bin").write_bytes(edit((folder / "model.bin").read_bytes())) and None


def text_of(name: str, edit: Callable[[str], str | None]) -> Spoil:
    """Another text file, or none."""

    def spoil(folder: Path, _: dict[str, Tensor]) -> None:
        text = edit((folder / name).read_text(encoding="utf-8"))
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")

    return spoil


INT8 = torch.ones(3 * tiny.WIDTH, tiny.WIDTH, dtype=torch.int8)
FAULTS: dict[str, tuple[Spoil, str]] = {
    "no model": (lambda folder, _: (folder / "model.bin").unlink(), "no model.bin in it"),
    "another file": (bytes_of(lambda _: b"PK\3\4 something else"), "begins with 67324752, 6 expected"),
    "empty": (bytes_of(lambda _: b""), "ends after 0 bytes, 4 more expected"),
    "older": (changed(version=5), "begins with 5, 6 expected"),
    "cut": (bytes_of(lambda data: data[:-1000]), "more expected; copy the file again"),
    "too long": (bytes_of(lambda data: data + b"\0"), "goes on behind its last entry"),
    "another spec": (changed(spec="TransformerSpec"), "'TransformerSpec' revision 3, 'WhisperSpec'"),
    "another revision": (changed(revision=4), "revision 4, 'WhisperSpec' revision 3 expected"),
    "int8": (with_variable(f"{KEYS}/weight", INT8), f"quantized matrices .{KEYS}/weight.*--quantization float16"),
    "scale": (with_variable(f"{KEYS}/weight_scale", torch.ones(4)), "quantized matrices .*weight_scale"),
    "key bias": (changed(edit=key_bias), f"{KEYS}/bias has a key part that is not zero"),
    "unknown alias": (changed(aliases=(("a", "b"),)), "alias a of b, which is not in it"),
    "untied": (changed(edit=lambda v: v | {"decoder/projection/weight": 2 * v["decoder/embeddings/weight"]},
                       aliases=()), "one not tied to the projection"),
    "another activation": (with_variable("decoder/activation", torch.tensor(0, dtype=torch.int8)),
                           "decoder/activation is 0, 3 expected"),
    "no embedding": (changed(edit=lambda v: {k: t for k, t in v.items() if "embeddings" not in k}, aliases=()),
                     "no embedding"),
    "a tensor less": (without("decoder/layer_1/ffn/linear_0/bias"), "Missing key.*layers.1.fc1.bias"),
    "a tensor more": (with_variable("encoder/layer_0/ffn/linear_2/bias", torch.ones(4)), "Unexpected key.*linear_2"),
    "another shape": (with_variable("encoder/conv1/bias", torch.ones(4)), "size mismatch for model.encoder.conv1.bias"),
    "no heads": (without("decoder/num_heads"), "no decoder/num_heads, which every Whisper has"),
    "heads that do not fit": (with_variable("decoder/num_heads", torch.tensor(5, dtype=torch.int16)), "divisible"),
    "no settings": (text_of("config.json", lambda _: None), "config.json.*a JSON file expected"),
    "no vocabulary": (text_of("vocabulary.txt", lambda _: None), "vocabulary.json.*a JSON file expected"),
    "vocabulary of another": (text_of("vocabulary.txt", lambda text: text + "more\n"), "284 tokens and 283 embed"),
    "tokenizer of another": (text_of("tokenizer.json", lambda t: t.replace('"id":27', '"id":37')),
                             "endoftext.> is 270 in the vocabulary and 370 in tokenizer.json"),
    "no tokenizer": (text_of("tokenizer.json", lambda _: "[]"), "tokenizer.json.*a tokenizer expected"),
    "not JSON": (text_of("tokenizer.json", lambda _: "{"), "tokenizer.json.*a JSON file expected"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_folder_is_one_line_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    variables, (spoil, message) = variables_of(model_of(SMALL)), FAULTS[fault]
    folder = write_folder(tmp_path / "in", SMALL, binary(variables))
    spoil(folder, variables)
    with pytest.raises(SystemExit, match=f"(?i)^from_ctranslate2: .*{message}") as caught:
        tool.main([str(folder), str(tmp_path / "out")])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    data = binary(variables_of(model_of(SMALL)))
    path = tmp_path / "model.bin"
    for end in [*range(60), *range(60, len(data), len(data) // 80), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match=r"model\.bin: ends after \d+ bytes"):
            tool.read_model(path)
