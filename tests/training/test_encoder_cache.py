"""The cache of encoder outputs: what is read is what was written, and other, torn and foreign files are refused."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from speechmtp.data.kaldi import Utterance
from speechmtp.errors import DataError
from speechmtp.training.tasks import encoder_cache
from speechmtp.training.tasks.encoded_utterances import EncodedUtterance
from speechmtp.training.tasks.encoder_cache import EncoderCache, audio_facts
from speechmtp.training.tasks.head_inputs.encoded_prompts import EncodedPrompt

FACTS = ["model", 3, ["u1", 0.5, None]]


def utterances() -> list[EncodedUtterance]:
    """Three utterances of different sizes, one without a text."""
    torch.manual_seed(0)
    return [
        EncodedUtterance("ä-1", torch.randn(4, 3).half(), [5, 6], True, 0.1),
        EncodedUtterance("b", torch.randn(1, 3).half(), [], False, 2 / 3),
        EncodedUtterance("c-pass1", torch.randn(2, 3).half(), [7], True, 30.0),
    ]


def prompts() -> list[EncodedPrompt]:
    """Two prompts in float64, one without entries."""
    torch.manual_seed(0)
    return [
        EncodedPrompt(torch.randn(3, 2, dtype=torch.float64), torch.arange(3), 3, [4, 5]),
        EncodedPrompt(torch.zeros(0, 2, dtype=torch.float64), torch.arange(0), 0, []),
    ]


def unexpected() -> list[EncodedUtterance]:
    raise AssertionError("computed again")


def assert_equal(found: list, wanted: list) -> None:
    """The same items, bit for bit, with the same types."""
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        for name, value in vars(other).items():
            read = getattr(one, name)
            if isinstance(value, Tensor):
                assert read.dtype == value.dtype and read.shape == value.shape and torch.equal(read, value)
            else:
                assert type(read) is type(value) and read == value


@pytest.mark.parametrize("items", [utterances(), prompts()], ids=["utterances", "prompts"])
def test_what_is_read_is_what_was_written(items: list, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache.safetensors"
    cache = EncoderCache(path, type(items[0]), FACTS)
    assert cache.get(lambda: items) is items
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert_equal(EncoderCache(path, type(items[0]), FACTS).get(unexpected), items)  # type: ignore[arg-type]


def test_without_a_file_everything_is_computed_each_time(tmp_path: Path) -> None:
    calls = []
    cache = EncoderCache(None, EncodedUtterance, FACTS)
    for number in (1, 2):
        assert cache.get(lambda: calls.append(0) or utterances())[0].id == "ä-1"  # type: ignore[func-returns-value]
        assert len(calls) == number
    assert list(tmp_path.iterdir()) == []


def test_nothing_leaves_no_file(tmp_path: Path) -> None:
    assert EncoderCache(tmp_path / "cache", EncodedUtterance, FACTS).get(list) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("facts", [[], ["model", 4, ["u1", 0.5, None]], ["model", 3, ["u1", 0.5, 1.0]], [FACTS]])
def test_a_file_for_other_facts_is_refused_and_stays(facts: list, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    EncoderCache(path, EncodedUtterance, FACTS).get(utterances)
    before = path.read_bytes()
    with pytest.raises(DataError) as error:
        EncoderCache(path, EncodedUtterance, facts).get(unexpected)
    assert str(error.value) == (
        f"{path}: holds encoder outputs of another model, data or options; remove it or name another"
    )
    assert path.read_bytes() == before


def test_items_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    EncoderCache(path, EncodedUtterance, FACTS).get(utterances)
    with pytest.raises(DataError, match="another model, data or options"):
        EncoderCache(path, EncodedPrompt, FACTS).get(prompts)


def test_a_file_of_an_earlier_layout_is_refused(tmp_path: Path) -> None:
    """The key stands for the fields too, so that a file without one of them is never read."""

    @dataclass(frozen=True)
    class EncodedUtterance:
        id: str
        memory: Tensor

    path = tmp_path / "cache"
    EncoderCache(path, EncodedUtterance, FACTS).get(lambda: [EncodedUtterance("a", torch.ones(1, 2))])
    with pytest.raises(DataError, match="another model, data or options"):
        EncoderCache(path, type(utterances()[0]), FACTS).get(unexpected)


def test_torn_and_foreign_files_are_one_line_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = EncoderCache(path, EncodedUtterance, FACTS)
    cache.get(utterances)
    whole = path.read_bytes()
    for raw in (b"", b"torn", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(raw)
        with pytest.raises(DataError) as error:
            cache.get(unexpected)
        assert str(error.value).startswith(f"{path}: cannot be read: ") and "\n" not in str(error.value)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="another model"):
        cache.get(unexpected)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        cache.get(unexpected)


@pytest.mark.parametrize("name", ["memory", "text.lengths", "seconds"])
def test_a_file_that_lacks_a_part_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = EncoderCache(path, EncodedUtterance, FACTS)
    cache.get(utterances)
    with safe_open(path, framework="pt") as file:
        texts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for change in (None, tensors[name][:-1].clone()):
        changed = {key: value for key, value in tensors.items() if key != name}
        save_file(changed if change is None else changed | {name: change}, path, texts)
        with pytest.raises(DataError, match="cannot be read"):
            cache.get(unexpected)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cache"

    def fail(tensors: dict[str, Tensor], file: Path, texts: dict[str, str]) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(encoder_cache, "save_file", fail)
    with pytest.raises(DataError, match=f"{path}: cannot be written: no space left on device"):
        EncoderCache(path, EncodedUtterance, FACTS).get(utterances)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "cache"
    with pytest.raises(DataError, match=f"{path}: cannot be written"):
        EncoderCache(path, EncodedUtterance, FACTS).get(utterances)


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a new file is written, the path has nothing or the old file."""
    path, seen = tmp_path / "cache", []
    real = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((self.name, path.exists()))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    EncoderCache(path, EncodedUtterance, FACTS).get(utterances)
    assert seen == [(f"cache.tmp-{os.getpid()}", False)]


def test_audio_facts_have_the_texts_only_where_they_count() -> None:
    one, other, later = (
        Utterance("u", "a.wav", text, None, start, 2.0)
        for text, start in (("THE HEN", 0.5), ("THE HENS", 0.5), ("THE HEN", 0.6))
    )
    assert audio_facts([one], False) == audio_facts([other], False) != audio_facts([later], False)
    assert audio_facts([one], True) != audio_facts([other], True)
    assert audio_facts([one, later], True) == audio_facts([one], True) + audio_facts([later], True)
