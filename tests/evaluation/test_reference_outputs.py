"""Outputs of `ar` that are stored: decoded once for a model and its data, and again for any others."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch

import speechmtp
from speechmtp.evaluation.reference_outputs import (
    plain_tokens,
    requests_digest,
    stored_tokens,
    text_tokens,
    write_problem,
)
from speechmtp.models.ctc_labels import CtcLogits
from speechmtp.types import Request, Result

KEY = {"trunk_sha256": "a", "heard_sha256": "b", "dtype": "float32"}


def request(size: int = 3, **more: Any) -> Request:
    """A request without sources."""
    return Request(tiny.prompts(tiny.trunk(), [size]), tiny.RULES, **({"limit": 9} | more))


def never() -> dict[str, list[int]]:
    """What must not be decoded again."""
    raise AssertionError("decoded again")


def test_outputs_are_read_from_the_first_file_that_has_the_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert stored_tokens(KEY, "an4", lambda: {"u": [5, 2]}, [first, second]) == ({"u": [5, 2]}, False)
    assert json.loads(first.read_text()) == {**KEY, "model": "an4", "tokens": {"u": [5, 2]}} and not second.exists()
    assert stored_tokens(KEY, "other name", never, [second, first]) == ({"u": [5, 2]}, True)
    for name in KEY:
        other = stored_tokens(KEY | {name: "c"}, "an4", lambda: {"u": [6]}, [second, first])
        assert other == ({"u": [6]}, False), "another key is decoded, and stored in the first file"
    assert stored_tokens(KEY, "an4", never, [second, first])[1], "the last file still has it"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"tokens": [1]}', "{}"])
def test_a_file_that_is_something_else_is_written_anew(content: str, tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(content)
    assert stored_tokens(KEY, "an4", lambda: {"u": [5]}, [path]) == ({"u": [5]}, False)
    assert stored_tokens(KEY, "an4", never, [path]) == ({"u": [5]}, True)


def test_plain_outputs_are_decoded_in_batches_by_the_key_of_model_and_data(tmp_path: Path) -> None:
    batches: list[int] = []

    def decode(requests: list[Request], strategy: Any) -> list[Result]:
        assert strategy.label == "ar"
        batches.append(len(requests))
        return [Result("", (int(r.prompt.lengths[0]), 2), Result("", (), None).trace) for r in requests]  # type: ignore[arg-type]

    bundle = SimpleNamespace(trunk_sha256="t", name="small", model=SimpleNamespace(trunk=tiny.trunk()))
    recogniser: Any = SimpleNamespace(bundle=bundle, dtype=torch.bfloat16, decode=decode)
    requests = {name: request(size) for name, size in (("c", 4), ("a", 6), ("b", 5))}
    path = tmp_path / "ar.json"
    tokens, stored = plain_tokens(recogniser, requests, 2, [path])
    assert (tokens, stored, batches) == ({"c": [4, 2], "a": [6, 2], "b": [5, 2]}, False, [2, 1])
    assert list(tokens) == ["c", "a", "b"]
    assert plain_tokens(recogniser, requests, 2, [path]) == (tokens, True)
    kept = json.loads(path.read_text())
    assert kept["heard_sha256"] == requests_digest(requests)
    assert (kept["trunk_sha256"], kept["dtype"], kept["model"]) == ("t", "bfloat16", "small")


def test_the_digest_is_that_of_what_was_heard() -> None:
    heard = {"a": request(), "b": request(4)}
    base = requests_digest(heard)
    assert base == requests_digest(dict(reversed(heard.items()))) and len(base) == 64
    logits = CtcLogits(torch.eye(4)[[0, 3, 1]], 3)
    spoken = replace(heard["a"], sources=(logits,))
    other = replace(heard["a"], sources=(CtcLogits(torch.eye(4)[[0, 3, 2]], 3),))
    memory = tiny.memory_prompts(tiny.tiny_moonshine(), [3])
    assert memory.memory is not None
    louder = replace(memory, memory=2 * memory.memory)
    changed = [
        {"a": heard["a"], "c": heard["b"]},
        heard | {"a": request(5)},
        heard | {"a": request(limit=8)},
        heard | {"a": spoken},
        heard | {"a": other},
        heard | {"a": Request(memory, tiny.RULES, 9)},
        heard | {"a": Request(louder, tiny.RULES, 9)},
    ]
    assert len({base, *map(requests_digest, changed)}) == 1 + len(changed)
    assert requests_digest({"a": spoken}) == requests_digest({"a": replace(spoken, limit=8)}), "labels are enough"


def test_transcripts_are_normalised_and_end(tmp_path: Path) -> None:
    model = SimpleNamespace(transcript=lambda text: [ord(c) for c in text], eos=(2, 9))
    recogniser: Any = SimpleNamespace(bundle=SimpleNamespace(model=model, normalizer="kaldi-basic"))
    requests = {"a": request(), "b": request(empty=True)}
    assert text_tokens(recogniser, requests, {"a": "A", "b": "B"}) == {"a": [ord("A"), 2], "b": []}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert write_problem(tmp_path / "new" / "folder") == "" and list((tmp_path / "new" / "folder").iterdir()) == []
    inside = Path(speechmtp.__file__).parent / "assets" / "reports"
    assert write_problem(inside) == "it is part of the installed package" and not inside.exists()
    (tmp_path / "file").write_text("")
    assert write_problem(tmp_path / "file") == os.strerror(17)


def test_the_digest_of_requests_moves_with_all_that_outputs_depend_on(tmp_path: Path) -> None:
    """Another language has the same encoder outputs, and other generation settings have the same audio."""
    recogniser = speechmtp.load(str(tiny.write_seq2seq(tmp_path / "model")))
    one, other = (recogniser.listen(torch.randn(4000, generator=tiny.generator(seed)).numpy()) for seed in (0, 1))
    known = requests_digest({"a": one})
    assert known == requests_digest({"a": replace(one)})
    changed = [
        {"b": one}, {"a": other}, {"a": replace(one, limit=3)}, {"a": replace(one, start_tokens=(1, 5))},
        {"a": replace(one, rules=replace(one.rules, suppress=(4,)))},
        {"a": replace(one, rules=replace(one.rules, eos=(2, 5)))},
    ]  # fmt: skip
    assert len({known, *map(requests_digest, changed)}) == 1 + len(changed)
