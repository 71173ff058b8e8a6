"""What holds for every kind of model of the table: a row each."""

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny
import torch
from small_audio_lm import write_audio_lm
from small_lm import LINES, write_lm

import speechmtp
import speechmtp.models.locate as locate_module
from speechmtp.api import Recogniser
from speechmtp.audio.endpoint import ActivityConfig
from speechmtp.audio.features import FbankConfig
from speechmtp.bundle import Bundle, BundleConfig, load_bundle, load_without_heads, reads_text, save_bundle
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.errors import CheckpointError, ConfigError
from speechmtp.evaluation.peers import run_peer
from speechmtp.heads.folder import trunk_digest
from speechmtp.models.adapter import CtcMergeConfig
from speechmtp.models.bases.contract import InputKind
from speechmtp.models.bases.table import KINDS, new_model
from speechmtp.models.encoder import EncoderConfig
from speechmtp.models.encoder_lm import ModelConfig
from speechmtp.models.trunk import ScratchTrunkConfig
from speechmtp.streaming.config import StreamConfig
from speechmtp.streaming.events import Committed
from speechmtp.text.tokenizer import train_tokenizer
from speechmtp.training.tasks.head_inputs.table import HEAD_INPUTS
from speechmtp.types import Request


def write_ours(folder: Path) -> Path:
    """A speech LLM of ours with random weights, whose CTC head says something."""
    sizes = ModelConfig(
        EncoderConfig(features=80, width=16, layers=1, heads=2, ff_width=24, kernel=4, channels=4, inter_ctc=()),
        CtcMergeConfig(),
        ScratchTrunkConfig(width=16, layers=2, heads=2, ff_width=32),
    )
    with torch.random.fork_rng():
        model = new_model(sizes, train_tokenizer(LINES, 30, hard_limit=False), FbankConfig())
    tiny.randomise(model, 3)
    save_bundle(Bundle(BundleConfig(features=model.features, model=model.config), model.float()), folder)
    return folder


ROWS: Mapping[str, Callable[[Path], Path]] = {
    "speech_lm": write_ours,
    "moonshine": lambda folder: tiny.write_seq2seq(folder, "moonshine", 3),
    "whisper": lambda folder: tiny.write_seq2seq(folder, "whisper", 3),
    "qwen2_audio": write_audio_lm,
    "causal_lm": write_lm,
}
kinds = pytest.mark.parametrize("kind", list(ROWS))
TEXT = "the cat"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each kind."""
    place = tmp_path_factory.mktemp("bases")
    return {kind: write(place / kind) for kind, write in ROWS.items()}


def requests_of(bundle: Bundle, recogniser: Recogniser) -> list[Request]:
    """What is asked for noise of several lengths, or behind a few tokens."""
    if bundle.model.input_kind == "texts":
        return [bundle.text_model.read(bundle.model.encode(line)[:n], 12) for n, line in enumerate(LINES, 2)]
    sizes = (4000, 9000, 16000)
    return [recogniser.listen(0.3 * torch.randn(size, generator=tiny.generator(size)).numpy()) for size in sizes]


def test_every_kind_has_a_row() -> None:
    assert set(ROWS) == set(KINDS) - {"unit_lm"}  # which hears nothing and has no text: tests/test_synthesis.py
    assert {kind.input_kind for kind in KINDS.values()} == set(get_args(InputKind)) == set(HEAD_INPUTS)


@kinds
def test_a_folder_is_that_of_its_kind_and_comes_back_as_saved(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    bundle = load_bundle(str(folders[kind]))
    assert bundle.model.kind == bundle.config.model.kind == kind
    save_bundle(bundle, tmp_path / "copy")
    back = load_bundle(str(tmp_path / "copy"))
    assert back.model.kind == kind and back.config == bundle.config
    assert trunk_digest(back.model) == trunk_digest(bundle.model)
    one, other = bundle.model, back.model
    for name in ("eos", "rules", "rate", "shortest", "longest", "input_kind", "features", "own_ctc", "unk"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.encode(TEXT) == other.encode(TEXT) and one.transcript(TEXT) == other.transcript(TEXT)
    assert one.decode(one.encode(TEXT)) == TEXT and one.decode(one.eos) == ""


@kinds
def test_what_it_reads_is_known_of_folders_and_hub_names_before_it_is_loaded(
    kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate_module, "_download", lambda name: folders[kind])
    for name in (str(folders[kind]), "owner/model"):
        assert reads_text(name) == (KINDS[kind].input_kind == "texts")
    assert load_bundle("owner/model").model.kind == kind


@kinds
def test_ar_is_what_transformers_says(kind: str, folders: dict[str, Path]) -> None:
    recogniser = speechmtp.load(str(folders[kind]), dtype="float64")
    bundle = recogniser.bundle
    requests = [request for request in requests_of(bundle, recogniser) if not request.empty]
    assert requests
    results = recogniser.decode(requests, parse_strategy("ar"))
    for request, result in zip(requests, results):
        assert request.limit is not None and request.rules == bundle.model.rules and len(request.prompt.lengths) == 1
        prompt = (
            request.prompt
            if bundle.model.input_kind in ("features", "prompts")
            else request.start_tokens or request.ids
        )
        peer = run_peer(
            bundle.model.trunk, "greedy", prompt, request.rules, request.limit, memory=request.prompt.memory
        )  # fmt: skip
        assert list(result.tokens) == peer.tokens
        assert result.text == bundle.model.decode(result.tokens)


@pytest.mark.parametrize("kind", [kind for kind in ROWS if KINDS[kind].input_kind != "texts"])
def test_threads_listen_and_decode_at_once_on_one_recogniser(kind: str, folders: dict[str, Path]) -> None:
    recogniser = speechmtp.load(str(folders[kind]), dtype="float64")
    plain = parse_strategy("ar")
    sounds = [0.3 * torch.randn(size, generator=tiny.generator(size)).numpy() for size in (4000, 9000, 16000)]

    def said(sound: np.ndarray) -> tuple[int, ...]:
        return tuple(recogniser.decode([recogniser.listen(sound)], plain)[0].tokens)

    expected = [said(sound) for sound in sounds]
    together = threading.Barrier(len(sounds))
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            together.wait()
            for _ in range(8):
                found = said(sounds[number])
                wrong.extend([] if found == expected[number] else [found])
        except BaseException as error:
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(sounds))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


@kinds
def test_a_model_of_another_kind_cannot_draft(kind: str, folders: dict[str, Path]) -> None:
    other = "causal_lm" if kind != "causal_lm" else "speech_lm"
    draft = load_without_heads(str(folders[other])).model
    with pytest.raises(CheckpointError, match="draft model") as caught:
        load_without_heads(str(folders[kind])).model.check_draft(draft, "base")
    assert "\n" not in str(caught.value)


@kinds
def test_a_wrong_key_of_a_kind_is_named_with_its_place(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    save_bundle(load_bundle(str(folders[kind])), tmp_path / "copy")
    path = tmp_path / "copy" / "config.yaml"
    path.write_text(path.read_text().replace(f"kind: {kind}", f"kind: {kind}\n  extr: 3"))
    with pytest.raises(ConfigError, match=r"config.yaml: model: extr: no such key") as caught:
        load_bundle(str(tmp_path / "copy"))
    assert "\n" not in str(caught.value)
    path.write_text("format_version: 1\nmodel: {kind: seq2seq, family: whisper, extra: 3}\n")
    with pytest.raises(ConfigError, match="replace `kind: seq2seq` and `family: whisper` by `kind: whisper`") as caught:
        load_bundle(str(tmp_path / "copy"))
    assert "\n" not in str(caught.value)
    path.write_text("format_version: 1\nmodel: {kind: seq2seq}\n")
    with pytest.raises(ConfigError, match="replace `kind: seq2seq` by `kind: moonshine`"):
        load_bundle(str(tmp_path / "copy"))
    path.write_text("format_version: 1\nmodel: {kind: gpt}\n")
    with pytest.raises(ConfigError, match=r"model.kind: 'gpt' is not one of speech_lm, moonshine, whisper"):
        load_bundle(str(tmp_path / "copy"))


@pytest.mark.parametrize("kind", [kind for kind in ROWS if KINDS[kind].input_kind != "texts"])
def test_a_stream_of_every_kind_says_in_the_end_what_it_says_offline(kind: str, folders: dict[str, Path]) -> None:
    recogniser = speechmtp.load(str(folders[kind]), dtype="float64")
    sound = 0.3 * torch.randn(32000, generator=tiny.generator(2)).numpy()
    everything = ActivityConfig(threshold=0.0, min_speech_ms=0)
    # One pass in the end is offline recognition; with passes before it, committed words may differ.
    for step, same in ((60.0, True), (0.5, False)):
        stream = recogniser.create_stream(StreamConfig(step=step, activity=everything, activity_floor=0.0))
        events = [event for piece in np.split(sound, 20) for event in stream.feed(piece)] + stream.finish()
        said = "".join(event.text for event in events if isinstance(event, Committed))
        assert stream.result().text == said.strip()
        assert not same or said.strip() == recogniser.transcribe((sound, 16000)).text.strip()
        assert same or stream.session.passes >= 3
