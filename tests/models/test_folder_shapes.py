"""Folders of transformers' models in the shapes that people have them: the same model, or one line with the mend."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from byte_whisper import SPECIAL, write_byte_whisper
from safetensors.torch import load_file, save_file
from small_audio_lm import write_audio_lm
from small_lm import write_lm
from torch import Tensor

from speechmtp.bundle import load_without_heads, reads_text
from speechmtp.errors import CheckpointError, SpeechMTPError
from speechmtp.models.bases.whisper import Whisper
from speechmtp.models.trunk import PretrainedTrunkConfig, build_trunk

WRITERS: dict[str, Callable[[Path], Path]] = {
    "moonshine": lambda folder: tiny.write_seq2seq(folder, "moonshine", 3),
    "whisper": write_byte_whisper,
    "causal_lm": write_lm,
    "qwen2_audio": write_audio_lm,
}
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole folder of each kind."""
    place = tmp_path_factory.mktemp("whole")
    return {kind: write(place / kind) for kind, write in WRITERS.items()}


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def weights_of(folder: Path) -> dict[str, Tensor]:
    model = load_without_heads(str(folder)).model
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def stored_again(folder: Path, shards: int, pickled: bool, dtype: torch.dtype = torch.float32) -> None:
    """Replace the file of weights by one or several of another form."""
    state = {name: tensor.to(dtype) for name, tensor in load_file(folder / SAFE).items()}
    (folder / SAFE).unlink()
    stem, end = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    names, index = sorted(state), {}
    for number in range(shards):
        part = {name: state[name] for name in names[number::shards]}
        file = f"{stem}{end}" if shards == 1 else f"{stem}-{number + 1:05}-of-{shards:05}{end}"
        torch.save(part, folder / file) if pickled else save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    if shards > 1:
        (folder / f"{stem}{end}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize(
    ("kind", "shards", "pickled"),
    [
        ("moonshine", 3, False), ("moonshine", 1, True), ("moonshine", 3, True), ("whisper", 3, True),
        ("causal_lm", 3, False), ("causal_lm", 3, True), ("qwen2_audio", 1, True),
    ],
)  # fmt: skip
def test_weights_in_other_files_are_the_same(
    kind: str, shards: int, pickled: bool, whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(whole[kind], tmp_path / "model")
    stored_again(folder, shards, pickled)
    expected, found = weights_of(whole[kind]), weights_of(folder)
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("moonshine", torch.bfloat16), ("whisper", torch.float16), ("causal_lm", torch.bfloat16),
        ("qwen2_audio", torch.float16),
    ],
)  # fmt: skip
def test_half_precision_is_loaded_in_float32(
    kind: str, dtype: torch.dtype, whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(whole[kind], tmp_path / "model")
    stored_again(folder, 1, False, dtype)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": str(dtype).removeprefix("torch.")}))
    expected, found = weights_of(whole[kind]), weights_of(folder)
    stored = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert len(stored) > 10 and {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], expected[name].to(dtype).float()) for name in stored)


def test_a_pretrained_trunk_opens_such_folders_too(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole["causal_lm"], tmp_path / "lm")
    stored_again(folder, 2, True)
    one, other = (build_trunk(PretrainedTrunkConfig(name=str(each)), 64) for each in (whole["causal_lm"], folder))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00001-of-00002.bin: missing"):
        build_trunk(PretrainedTrunkConfig(name=str(folder)), 64)


class Harm:
    """What a pickle may run when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm-was-done",)


def no_weights(folder: Path) -> None:
    (folder / SAFE).unlink()


def only(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / SAFE).rename(folder / name)

    return change


def pointer(folder: Path) -> None:
    (folder / SAFE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def lost_shard(folder: Path) -> None:
    stored_again(folder, 3, False)
    (folder / "model-00002-of-00003.safetensors").unlink()


def no_index(folder: Path) -> None:
    stored_again(folder, 2, False)
    (folder / f"{SAFE}.index.json").write_text("{}")


def objects(folder: Path) -> None:
    (folder / SAFE).unlink()
    torch.save({"model": Harm()}, folder / PICKLED)


def nested(folder: Path) -> None:
    (folder / SAFE).unlink()
    torch.save({"state_dict": {"a": torch.zeros(1)}}, folder / PICKLED)


def cut(folder: Path) -> None:
    stored_again(folder, 1, True)
    (folder / PICKLED).write_bytes((folder / PICKLED).read_bytes()[:2000])


@pytest.mark.parametrize("kind", ["moonshine", "causal_lm"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_weights, r"no weights, expected model\.safetensors or pytorch_model\.bin"),
        (only("tf_model.h5"), r"only tf_model\.h5, .*transformers 4: .*from_tf=True"),
        (only("flax_model.msgpack"), r"only flax_model\.msgpack, .*from_flax=True"),
        (pointer, r"model\.safetensors: a pointer of Git LFS, .*git lfs pull"),
        (lost_shard, r"00002-of-00003\.safetensors: missing, and model\.safetensors\.index\.json names it"),
        (no_index, r"index\.json: not an index of shards"),
        (objects, r"weights_only=True.* convert it: python -c .*safetensors"),
        (cut, r"pytorch_model\.bin: .*copy it again|cannot be loaded as a text LM"),
    ],
)
def test_weights_that_cannot_be_read_are_one_line(
    kind: str, change: Callable[[Path], None], message: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(whole[kind], tmp_path / "model")
    change(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not Path("harm-was-done").exists()


def test_a_dictionary_of_more_than_tensors_is_one_line(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole["moonshine"], tmp_path / "model")
    nested(folder)
    with pytest.raises(CheckpointError, match=r"not a dictionary of tensors; save the model's state_dict\(\) alone"):
        load_without_heads(str(folder))


def test_folders_without_a_model_say_what_they_have(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no files but neither config\.yaml nor config\.json"):
        load_without_heads(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"it has preprocessor_config\.json but neither"):
        load_without_heads(str(tmp_path))


# Tokenizers.


def slow(folder: Path) -> dict[str, int]:
    """Replace tokenizer.json by the files of before; return the ids of added tokens."""
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    path.unlink()
    (folder / "vocab.json").write_text(json.dumps(found["model"]["vocab"]))
    merges = [" ".join(pair) for pair in found["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    added = {token["content"]: token["id"] for token in found["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return added


@pytest.mark.parametrize("settings", [True, False])
def test_a_tokenizer_of_older_files_has_the_same_ids(settings: bool, whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole["whisper"], tmp_path / "model")
    slow(folder)
    if not settings:
        (folder / "tokenizer_config.json").unlink()
    one, other = (load_without_heads(str(each)).model for each in (whole["whisper"], folder))
    assert len(one.tokenizer) == len(other.tokenizer)
    for text in ("the cat", " three  cats, naïve", "<|en|>the cat"):
        assert one.encode(text) == other.encode(text) and other.decode(other.encode(text)) == text.lstrip()
    ids = range(len(one.tokenizer))
    assert [one.decode([i]) for i in ids] == [other.decode([i]) for i in ids]
    assert one.spelling().pieces == other.spelling().pieces
    assert one.rules == other.rules


def test_tokenizers_that_cannot_be_had_are_one_line(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole["whisper"], tmp_path / "model")
    added = slow(folder)
    (folder / "added_tokens.json").write_text(json.dumps(added | {"<|de|>": added["<|de|>"] + 7}))
    with pytest.raises(CheckpointError, match=r"token '<\|de\|>' is \d+ in its files and \w+ in") as caught:
        load_without_heads(str(folder))
    (folder / "merges.txt").unlink()
    (folder / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be read without tokenizer\.json"):
        load_without_heads(str(folder))
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer; copy tokenizer\.json of the model"):
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value)


# Generation settings of old folders, and other missing files.


def changed(path: Path, **values: Any) -> None:
    """Set values of a JSON file; None removes one."""
    found = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def test_whispers_missing_settings_come_from_its_tokenizer_and_configuration(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    expected: Any = load_without_heads(str(whole["whisper"])).model
    own = ("no_timestamps_token_id", "lang_to_id", "task_to_id", "is_multilingual")
    for lost in ([], own[:1], own[1:2], own[2:3], own[3:], own):
        folder = copied(whole["whisper"], tmp_path / f"without{len(lost)}{lost[:1]}")
        path = folder / "generation_config.json"
        if lost:
            changed(path, **dict.fromkeys(lost))
        else:  # as old folders have them
            settings = json.loads(path.read_text())
            path.unlink()
            changed(folder / "config.json", **{name: settings[name] for name in (
                "suppress_tokens", "begin_suppress_tokens", "max_length")})  # fmt: skip
        (folder / "preprocessor_config.json").unlink()
        found: Any = load_without_heads(str(folder)).model
        assert found.rules == expected.rules and found.multilingual and found.limit(10) == expected.limit(10) == 30
        for language, task in (("de", ""), ("english", "translate")):
            assert found.start_tokens(language, task) == expected.start_tokens(language, task)
        heard = 0.1 * torch.randn(4000, generator=tiny.generator(0))
        assert torch.equal(found.inputs(heard), expected.inputs(heard))


@pytest.mark.parametrize(
    ("size", "start", "languages", "several"),
    [
        (51864, 50257, True, False), (51865, 50258, True, True), (51866, 50258, True, True), (300, 257, True, True),
        (300, 257, False, False), (52000, 50257, True, False),
    ],
)  # fmt: skip
def test_english_only_models_are_known_by_their_start_token(
    size: int, start: int, languages: bool, several: bool, tmp_path: Path
) -> None:
    """Their tokenizers have tokens of languages too."""
    from transformers import GenerationConfig

    sizes = SimpleNamespace(vocab_size=size, decoder_start_token_id=start)
    ids = dict(zip(SPECIAL, range(100))) if languages else {"<|notimestamps|>": 5}
    generation: Any = GenerationConfig()
    Whisper.check(tmp_path, sizes, generation, SimpleNamespace(id=ids.get))  # type: ignore[arg-type]
    assert generation.is_multilingual == several and hasattr(generation, "lang_to_id") == several


def test_ids_that_no_file_has_are_named(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    sizes = SimpleNamespace(vocab_size=51865, decoder_start_token_id=50258)
    with pytest.raises(CheckpointError, match=r"no lang_to_id in its generation_config\.json"):
        Whisper.check(
            tmp_path,
            sizes,
            GenerationConfig(),
            SimpleNamespace(id={"<|notimestamps|>": 5}.get),  # type: ignore
        )


def test_settings_that_are_no_json_are_one_line(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(whole["moonshine"], tmp_path / "model")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not generation settings") as caught:
        load_without_heads(str(folder))
    assert "\n" not in str(caught.value)


# Adapters.


def write_adapter(folder: Path, base: Path, name: str | None = None) -> Any:
    """An adapter of random weights on all linear layers of a decoder; return its unmerged model."""
    peft = pytest.importorskip("peft", reason="adapters need the extra `train`")
    model = load_without_heads(str(base)).model.trunk.model
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for key, weight in wrapped.named_parameters():
            if "lora_" in key:
                weight.copy_(torch.randn(weight.shape, generator=tiny.generator(len(key))))
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # True looks for the base's name on the hub
    changed(folder / "adapter_config.json", base_model_name_or_path=name or str(base))
    return wrapped.eval()


@pytest.mark.parametrize("kind", ["whisper", "causal_lm"])
def test_an_adapter_is_merged_into_its_base(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    wrapped = write_adapter(tmp_path / "adapter", whole[kind])
    bundle = load_without_heads(str(tmp_path / "adapter"))
    assert bundle.folder == tmp_path / "adapter" and bundle.model.kind == kind
    assert reads_text(str(tmp_path / "adapter")) == (kind == "causal_lm")
    assert not any(weight.requires_grad for weight in bundle.model.parameters())
    ids = torch.tensor([[1, 5, 3]])
    given: dict[str, Any] = {"input_ids": ids}
    if kind == "whisper":
        given = {"decoder_input_ids": ids, "input_features": torch.randn(1, 8, 100, generator=tiny.generator(1))}
    with torch.no_grad():
        found, expected = (one(**given).logits for one in (bundle.model.trunk.model, wrapped))
        plain = load_without_heads(str(whole[kind])).model.trunk.model(**given).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((plain - expected).abs().max()) > 0.1


def test_the_base_may_stand_beside_its_adapter(whole: dict[str, Path], tmp_path: Path) -> None:
    copied(whole["causal_lm"], tmp_path / "base")
    write_adapter(tmp_path / "adapter", whole["causal_lm"], "base")
    assert load_without_heads(str(tmp_path / "adapter")).model.kind == "causal_lm"


def test_adapters_that_cannot_be_opened_are_one_line(whole: dict[str, Path], tmp_path: Path) -> None:
    folder, base = tmp_path / "adapter", whole["causal_lm"]
    write_adapter(folder, base, "owner/model")

    def refused(match: str) -> None:
        with pytest.raises(SpeechMTPError, match=match) as caught:
            load_without_heads(str(folder))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)

    refused(r"a PEFT adapter of 'owner/model', whose folder is not on this machine; .*base_model_name_or_path")
    changed(folder / "adapter_config.json", base_model_name_or_path=str(whole["whisper"]))
    refused("its adapter does not fit|tensors of the adapter are missing")
    changed(folder / "adapter_config.json", base_model_name_or_path=str(base))
    state = load_file(folder / "adapter_model.safetensors")
    lost = sorted(state)[0]
    save_file({name: tensor for name, tensor in state.items() if name != lost}, folder / "adapter_model.safetensors")
    refused(rf"1 tensors of the adapter are missing and 0 unexpected \(first: {lost}\)")
    shutil.copy(base / SAFE, folder / SAFE)
    refused(r"a PEFT adapter beside whole weights; remove adapter_config\.json")
    (folder / SAFE).unlink()
    (folder / "adapter_config.json").write_text("[]")
    refused(r"adapter_config\.json: not an adapter's configuration")
