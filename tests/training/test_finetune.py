"""Fine-tuning of pretrained recognisers: what is trained, on which targets, and that no padding is encoded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch

from speechmtp.bundle import Bundle, load_without_heads, save_bundle
from speechmtp.data.kaldi import DataDir, read_data_dir
from speechmtp.errors import ConfigError, DataError
from speechmtp.models.bases.encoder_decoder import EncoderDecoder
from speechmtp.models.lora import Lora
from speechmtp.training.loop import LoopConfig
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks import finetune_data
from speechmtp.training.tasks.encoded_utterances import own_outputs
from speechmtp.training.tasks.finetune import FinetunePhase, adapter_targets, finetune
from speechmtp.training.tasks.finetune_data import FinetuneConfig, make_dev, make_pool, target_text

TEXTS = {"a": "HE SAID", "b": "IN A SUN", "c": "AN ALSO", "d": "HEN HID"}  # no `t`, which the tiny Whisper never says
families = pytest.mark.parametrize("family", ["moonshine", "whisper"])
SHORT = LoopConfig(evaluate_every=50, save_every=50)


def load(folder: Path, family: str = "moonshine") -> Bundle:
    """A tiny recogniser in float64."""
    bundle = load_without_heads(str(tiny.write_seq2seq(folder / family, family, 3)))
    return bundle.to(torch.device("cpu"), torch.float64)


def write_data(folder: Path) -> DataDir:
    """Four utterances, a tone in noise each, two of one length."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    for n, (size, name) in enumerate(zip((16000, 20000, 16000, 22000), TEXTS)):
        tone = np.sin(np.arange(size) * 0.1 * 2**n)
        soundfile.write(folder / f"{name}.wav", 0.2 * tone + 0.02 * noise.standard_normal(size), 16000)
    (folder / "wav.scp").write_text("".join(f"{name} {folder / name}.wav\n" for name in TEXTS))
    (folder / "text").write_text("".join(f"{name} {text}\n" for name, text in TEXTS.items()))
    return read_data_dir(folder)


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return write_data(tmp_path / "data")


def config(parts: str = "full", **more: object) -> FinetuneConfig:
    """A few rows at a high learning rate."""
    optim = OptimConfig(lr=3e-2, warmup=2, schedule="cosine", clip=1.0, ema=0.5)
    settings = {"precision": "float32", "rows": 4, "steps": 40, "target_case": "lower", "optim": optim, "loop": SHORT}
    return FinetuneConfig(parts=parts, **(settings | more))  # type: ignore[arg-type]


@pytest.fixture
def every_output_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model seldom ends by itself."""
    whole = finetune_data.encoded_utterances
    monkeypatch.setattr(
        finetune_data,
        "encoded_utterances",
        lambda *given: [replace(i, text=i.text[:6], ended=True) for i in whole(*given)],
    )


def spoken_texts(bundle: Bundle, data: DataDir) -> dict[str, str]:
    """What the model says of each utterance, encoded alone."""
    model: EncoderDecoder = bundle.model  # type: ignore[assignment]
    found = {}
    with torch.no_grad():
        for u in data.utterances:
            memory = model.memory(torch.from_numpy(u.load()))
            found[u.id] = bundle.tokenizer.decode(own_outputs(model, [memory], [model.limit(u.load().size / 16000)])[0])
    return found


def cost(bundle: Bundle, data: DataDir) -> float:
    """The loss of all transcripts."""
    phase = FinetunePhase(config(), bundle, [make_pool(bundle, data, config())], [], torch.float32)
    with torch.no_grad():
        return float(phase.loss(phase.batch(0), 0)[0])


@pytest.mark.parametrize(
    ("text", "lower", "sentence"),
    [
        ("FOUR TWO", "four two", "Four two."),
        ("RUBOUT B A O Z FIVE", "rubout b a o z five", "Rubout B a O Z five."),
        ("SO I THINK I'M IN", "so i think i'm in", "So I think I'm in."),
        ("really?", "really?", "Really?"),
        ("", "", ""),
    ],
)
def test_transcripts_are_written_as_the_bases_write(text: str, lower: str, sentence: str) -> None:
    assert [target_text(text, case) for case in ("as-is", "lower", "sentence")] == [text, lower, sentence]  # type: ignore[arg-type]


def test_whispers_text_opens_with_a_space(tmp_path: Path) -> None:
    moonshine, whisper = load(tmp_path), load(tmp_path, "whisper")
    assert moonshine.model.transcript("the") == moonshine.tokenizer.encode("the")
    assert whisper.model.transcript("the") == whisper.tokenizer.encode(" the")
    assert whisper.model.transcript("") == []


@pytest.mark.parametrize(("parts", "family"), [("full", "moonshine"), ("decoder", "whisper"), ("lora", "moonshine")])
def test_a_few_transcripts_are_learned_and_only_the_named_parts_move(
    parts: str, family: str, data: DataDir, tmp_path: Path
) -> None:
    if parts == "lora":
        pytest.importorskip("peft", reason="LoRA needs the extra `train`")
    bundle, base = load(tmp_path, family), load(tmp_path, family)
    settings = config(parts, steps=60)
    pools, dev = [make_pool(bundle, data, settings)], [make_dev(bundle, data, settings)]
    _, after = finetune(settings, bundle, pools, dev, torch.float32, tmp_path / "out")
    assert after["score"] == after["wer"]
    old, new = base.model.state_dict(), bundle.model.state_dict()
    assert set(new) == set(old) and not any(p.requires_grad for p in bundle.model.parameters())
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(".decoder." in name for name in moved)
    assert any(".encoder." in name for name in moved) == (parts == "full")
    if parts == "lora":
        assert {name.split(".")[-2] for name in moved} == {"q_proj", "v_proj"}
    right = [name for name, text in spoken_texts(bundle, data).items() if text == TEXTS[name].lower()]
    assert parts == "lora" or len(right) >= 2
    save_bundle(bundle, tmp_path / "model")
    assert cost(bundle, data) < cost(base, data) / (3 if parts == "lora" else 20)
    again = load_without_heads(str(tmp_path / "model")).to(torch.device("cpu"), torch.float64)
    assert spoken_texts(again, data) == spoken_texts(bundle, data)


def test_adapters_start_as_nothing_and_are_merged_exactly(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra `train`")
    model = load(tmp_path).model
    assert isinstance(model, EncoderDecoder)
    memory, ids = torch.randn(1, 5, tiny.WIDTH, dtype=torch.float64), torch.tensor([[1, 7, 8]])

    def states() -> torch.Tensor:
        return model.trunk(model.trunk.embed(ids), torch.arange(3)[None], torch.zeros_like(ids), (), memory).hidden

    plain = states()
    lora = Lora(model.trunk.model, 2, 4, adapter_targets(model))
    lora.draw_normal(0)
    adapters = lora.adapters()
    assert torch.equal(states(), plain) and len(adapters) == 8
    for adapter in adapters:
        torch.nn.init.normal_(adapter["up"])
    moved = states()
    lora.merge()
    assert not torch.allclose(moved, plain) and torch.allclose(states(), moved, rtol=0, atol=1e-12)


@families
def test_the_encoder_never_hears_padding(family: str, data: DataDir, tmp_path: Path) -> None:
    """A batch's loss is that of its rows alone, though encoder outputs differ in length."""
    bundle = load(tmp_path, family)
    pool = make_pool(bundle, data, config())
    phase = FinetunePhase(config(), bundle, [pool], [], torch.float32)
    [rows] = phase.batch(0)
    whole, _ = phase.loss([rows], 0)
    alone = sum(phase.loss([[row]], 0)[0] for row in rows)
    torch.testing.assert_close(whole, alone, rtol=1e-9, atol=1e-9)
    kept = make_pool(bundle, data, config("decoder"))
    other = FinetunePhase(config("decoder"), bundle, [kept], [], torch.float32)
    assert {i.id: i.text for i in other.batch(0)[0]} == {i.id: i.text for i in rows}
    torch.testing.assert_close(other.loss(other.batch(0), 0)[0], whole, rtol=2e-2, atol=0)  # half precision


@pytest.mark.usefixtures("every_output_counts")
def test_targets_of_kept_audio_are_the_bases_own(data: DataDir, tmp_path: Path) -> None:
    bundle = load(tmp_path)
    own, limits = spoken_texts(bundle, data), config("decoder", keep_share=0.5)
    pools = [make_pool(bundle, data, limits, keep, rows=2) for keep in (False, True)]
    assert [pool.size for pool in pools] == [4, 4]
    phase = FinetunePhase(limits, bundle, pools, [], torch.float32)
    for number in range(6):
        learn, keep = phase.batch(number)
        assert all(bundle.tokenizer.decode(i.text) == TEXTS[i.id].lower() for i in learn)
        assert all(own[i.id].startswith(bundle.tokenizer.decode(i.text)) for i in keep)
        assert phase.weight([learn, keep]) == sum(len(i.text) + 1 for i in [*learn, *keep])


@pytest.mark.usefixtures("every_output_counts")
@pytest.mark.parametrize("parts", ["full", "lora"])
def test_kept_audio_holds_the_distribution_before(parts: str, data: DataDir, tmp_path: Path) -> None:
    """The divergence is zero before the first update, has a gradient after one, and weighs what it is told."""
    if parts == "lora":
        pytest.importorskip("peft", reason="LoRA needs the extra `train`")
    bundle, settings = load(tmp_path), config(parts, keep_weight=2.0)
    pool = make_pool(bundle, data, settings, keep=True)
    held = FinetunePhase(settings, bundle, [pool], [], torch.float32)
    batch = held.batch(0)
    assert abs(float(held.loss(batch, 0)[0].detach())) < 1e-9
    if parts == "full":
        spoken = FinetunePhase(replace(settings, kl_to_base=False), bundle, [pool], [], torch.float32)
        assert float(spoken.loss(batch, 0)[0].detach()) > 1
    with torch.no_grad():
        for weight, _ in held.parameters():
            weight.add_(0.1)
    loss, _ = held.loss(batch, 0)
    assert float(loss.detach()) > 0.01
    loss.backward()
    assert any(float(weight.grad.abs().max()) > 0 for weight, _ in held.parameters() if weight.grad is not None)
    lighter = replace(settings, keep_weight=1.0)
    held._config = lighter
    assert float(held.loss(batch, 0)[0].detach()) == pytest.approx(float(loss.detach()) / 2)


@pytest.mark.usefixtures("every_output_counts")
def test_a_share_of_the_rows_is_taught_what_the_base_says(data: DataDir, tmp_path: Path) -> None:
    bundle = load(tmp_path)
    shared = config("decoder", base_targets=0.5)
    pool = make_pool(bundle, data, shared)
    phase = FinetunePhase(shared, bundle, [pool], [], torch.float32)
    batches = [phase.batch(n)[0] for n in range(40)]
    assert [phase.batch(n)[0][0].text for n in range(3)] == [b[0].text for b in batches[:3]]
    own = 0
    for row in (i for b in batches for i in b):
        assert row.text in (pool.base_texts[row.id], bundle.model.transcript(TEXTS[row.id].lower()))
        own += row.text == pool.base_texts[row.id]
    assert 0.3 < own / 160 < 0.7


def test_an_id_that_is_never_said_does_not_blow_up_the_loss(data: DataDir, tmp_path: Path) -> None:
    bundle = load(tmp_path, "whisper")
    model: EncoderDecoder = bundle.model  # type: ignore[assignment]
    assert 5 in model.rules.suppress
    phase = FinetunePhase(config(), bundle, [make_pool(bundle, data, config())], [], torch.float32)
    [rows] = phase.batch(0)
    rows[0].text[:] = [5, 7]
    assert float(phase.loss([rows], 0)[0].detach()) < 1e3


def test_texts_longer_than_the_limit_are_dropped_and_audio_that_is_too_long_is_named(
    data: DataDir, tmp_path: Path
) -> None:
    bundle = load(tmp_path)
    text = TEXTS | {"b": "THE HEN " * 30}
    (data.path / "text").write_text("".join(f"{name} {line}\n" for name, line in text.items()))
    for parts in ("full", "decoder"):
        assert make_pool(bundle, read_data_dir(data.path), config(parts)).dropped == ("b",)
    (data.path / "utt2dur").write_text("a 31\nb 1\nc 1\nd 1\n")
    with pytest.raises(DataError, match=r"wav.scp:1: a: 31.00 s, expected 0.06 to 30 s; cut or drop it"):
        make_pool(bundle, read_data_dir(data.path), config())
    (data.path / "text").write_text("".join(f"{name} {'Ö' * 3}\n" for name in TEXTS))
    with pytest.raises(DataError, match="has characters that the model's tokenizer lacks"):
        make_pool(bundle, read_data_dir(data.path), config("decoder"))


def test_a_faster_copy_is_heard_where_the_encoder_moves(data: DataDir, tmp_path: Path) -> None:
    bundle, faster = load(tmp_path), config(speeds=(1.0, 1.25))
    phase = FinetunePhase(faster, bundle, [make_pool(bundle, data, faster)], [], torch.float32)
    sizes = {len(i.memory) for n in range(8) for i in phase.batch(n)[0] if i.id == "b"}
    assert sizes == {20000, 16000}


def test_a_slower_copy_is_no_longer_than_the_model_hears(
    data: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, slower = load(tmp_path), config(speeds=(0.5,))
    monkeypatch.setattr(bundle.model, "longest", 2.0)
    phase = FinetunePhase(slower, bundle, [make_pool(bundle, data, slower)], [], torch.float32)
    sizes = {i.id: len(i.memory) for n in range(8) for i in phase.batch(n)[0]}
    assert sizes["b"] == 32000 and max(sizes.values()) == 32000, "20000 samples, not 40000 of which the end is lost"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FinetuneConfig(steps=0), "steps=0, expected 1 or more"),
        (lambda: FinetuneConfig(base_targets=1.5), "base_targets=1.5, expected a number from 0 to 1"),
        (lambda: FinetuneConfig(keep_share=1.0), "keep_share=1.0, expected 0 or more, below 1"),
        (lambda: FinetuneConfig(speeds=(0.9, 1.0), parts="lora"), "use parts=full"),
        (lambda: FinetuneConfig(speeds=()), "speeds ()"),
    ],
)
def test_wrong_options_are_named(make: Callable[[], FinetuneConfig], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert text in str(error.value)
