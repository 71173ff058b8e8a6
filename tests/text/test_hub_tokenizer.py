"""Tokenizers of transformers' kind, one with word marks and byte fallback (Moonshine's), one of bytes (Whisper's)."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from speechmtp.errors import CheckpointError
from speechmtp.text import hub_tokenizer
from speechmtp.text.hub_tokenizer import HubTokenizer
from speechmtp.text.marked_pieces import MarkedPieces

SENTENCES = [
    "the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore, he said.",
    "Mr. Quilter is the apostle of the middle classes", "and we are glad to welcome his gospel",
    "the the the quick quick fox", "seashells and shoreline; over and over again",
]  # fmt: skip
MARK = "\u2581"


def marked() -> tokenizers.Tokenizer:
    """As Moonshine's: no pre-tokenizer, spaces are marks, one is prepended, unknown characters fall back to bytes."""
    built = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    built.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # pieces stay within words
    built.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    settings = json.loads(built.to_str())
    settings |= {"added_tokens": settings["added_tokens"][:3], "pre_tokenizer": None}
    settings["model"]["vocab"]["<<ST_0>>"] = len(settings["model"]["vocab"])  # a placeholder, not marked as one
    built = tokenizers.Tokenizer.from_str(json.dumps(settings))
    built.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return built


def byte_level() -> tokenizers.Tokenizer:
    """As Whisper's, with a timestamp that is added without being marked as special."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>", "<|start|>"], show_progress=False
    )
    built.train_from_iterator(SENTENCES, trainer)
    built.add_tokens([AddedToken("<|0.00|>", special=False)])
    return built


KINDS = {
    "marked": HubTokenizer(marked().to_str(), 1, 2),
    "bytes": HubTokenizer(byte_level().to_str().encode(), 1, 0),
}
kinds = pytest.mark.parametrize("kind", sorted(KINDS))


@kinds
def test_text_comes_back(kind: str) -> None:
    tokenizer = KINDS[kind]
    for text in [*SENTENCES, "caf\u00e9 \u4e16\u754c", ""]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.eos]) == text
        assert all(0 <= i < len(tokenizer) for i in ids)
    assert tokenizer.encode(" and")  # the model's own first token has a space in front, the text none
    assert tokenizer.decode(tokenizer.spelling().encode(" and")) == "and"


@kinds
def test_special_tokens_are_neither_read_nor_written(kind: str) -> None:
    tokenizer = KINDS[kind]
    special = {"marked": ["<s>", "</s>", "<<ST_0>>"], "bytes": ["<|endoftext|>", "<|start|>", "<|0.00|>"]}[kind]
    ids = [i for i in range(len(tokenizer)) if tokenizer.piece(i) in special]
    assert len(ids) == 3 and tokenizer.decode(ids) == ""
    spelling = tokenizer.spelling()
    assert all(spelling.pieces[i] == "" for i in ids)
    for text in special:
        assert not set(tokenizer.encode(text)) & set(ids) and not set(spelling.encode(text)) & set(ids)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unk_and_bounds() -> None:
    assert KINDS["marked"].unk == 0 and KINDS["bytes"].unk == KINDS["bytes"].eos
    assert KINDS["marked"].piece(10**6) == "" and KINDS["marked"].decode([10**6]) == ""
    assert KINDS["marked"].spelling(500).pieces[len(KINDS["marked"]) :] == [""] * (500 - len(KINDS["marked"]))


@kinds
def test_pieces_spell_any_plain_string(kind: str) -> None:
    spelling, draw = KINDS[kind].spelling(), random.Random(0)
    printable = [chr(i) for i in range(32, 127)]
    texts = ["".join(draw.choices(printable, k=draw.randint(1, 20))) for _ in range(200)]
    text = " ".join(SENTENCES)
    cuts = [sorted(draw.sample(range(len(text)), 2)) for _ in range(200)]  # with a space in front, or within a word
    for one in [*texts, *(text[a:b] for a, b in cuts), " the", "he quick", " ", "  two", "It's ~"]:
        assert "".join(spelling.pieces[i] for i in spelling.encode(one)) == one


def test_pieces_of_single_tokens() -> None:
    tokenizer = KINDS["marked"]
    pieces = dict(zip((tokenizer.piece(i) for i in range(len(tokenizer))), tokenizer.spelling().pieces, strict=True))
    assert pieces[MARK + "the"] == " the" and pieces["<0x41>"] == "A"
    assert pieces["<0x0A>"] == pieces["<0xE4>"] == pieces["<0x7F>"] == ""
    tokenizer = KINDS["bytes"]
    pieces = dict(zip((tokenizer.piece(i) for i in range(len(tokenizer))), tokenizer.spelling().pieces, strict=True))
    assert pieces["\u0120the"] == " the"
    assert pieces["\u00e4"] == ""  # the byte E4, which begins a character


def test_a_string_inside_a_text_gets_no_space() -> None:
    tokenizer = KINDS["marked"]
    assert tokenizer.encode("the") == tokenizer.spelling().encode(" the") != tokenizer.spelling().encode("the")


@kinds
def test_plain_and_packed_files_agree(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]
    plain, packed = tokenizer.save(tmp_path), tokenizer.save(tmp_path, packed=True)
    assert (plain.name, packed.name) == ("tokenizer.json", "tokenizer.json.xz")
    first = packed.read_bytes()
    assert len(first) < plain.stat().st_size
    for path in (plain, packed):
        again = HubTokenizer.load(path, tokenizer.bos, tokenizer.eos)
        assert again.sha256 == tokenizer.sha256 and again.encode(SENTENCES[0]) == tokenizer.encode(SENTENCES[0])
        again.save(tmp_path / "again.xz", packed=True)
        assert (tmp_path / "again.xz").read_bytes() == first
    assert KINDS["marked"].sha256 != KINDS["bytes"].sha256


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.json: No such file"):
        HubTokenizer.load(tmp_path / "none.json", 1, 2)
    (tmp_path / "t.json.xz").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"t\.json\.xz: "):
        HubTokenizer.load(tmp_path / "t.json.xz", 1, 2)
    for wrong in (b"\xff\xfe", "no json", "[]", '{"a": 1}', '{"model": {"type": "BPE"}}'):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json: ") as error:
            HubTokenizer(wrong, 1, 2)
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="bos 1 and eos 9999"):
        HubTokenizer(marked().to_str(), 1, 9999)


def test_a_spelling_is_made_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most strategies do without: neither the strings nor the second tokenizer are there before their first use."""
    tokenizer, made = HubTokenizer(marked().to_str(), 1, 2), []
    build = hub_tokenizer._build
    monkeypatch.setattr(hub_tokenizer, "_build", lambda *args: made.append(args[1]) or build(*args))
    spelling = tokenizer.spelling()
    assert len(spelling.pieces) == len(tokenizer) and made == []
    assert spelling.encode(" the") == tokenizer.encode("the") and made.count("spelling") == 1
    assert spelling.encode(" the") and made.count("spelling") == 1


@pytest.mark.parametrize("seed", range(3))
def test_texts_of_marked_pieces_are_those_of_the_library(seed: int) -> None:
    """Any ids, bytes of broken characters and unknown ones among them; the library is read only to encode."""
    source, rng = marked().to_str(), random.Random(seed)
    tokenizer, library = HubTokenizer(source, 1, 2), tokenizers.Tokenizer.from_str(source)
    size = len(tokenizer)
    for _ in range(300):
        ids = [rng.choice((rng.randrange(size + 9), rng.randrange(3, 259))) for _ in range(rng.randrange(20))]
        kept = [i for i in ids if i not in tokenizer._special]
        assert tokenizer.decode(ids) == str(library.decode(kept)).lstrip(" ")
    assert [tokenizer.piece(i) for i in range(size)] == [library.id_to_token(i) for i in range(size)]
    assert tokenizer.id("th") == library.token_to_id("th") and tokenizer.id("nothing") is None
    assert "_tokens" not in vars(tokenizer)
    assert tokenizer.encode(SENTENCES[0]) == library.encode(SENTENCES[0], add_special_tokens=False).ids


def changed(**parts: object) -> str:
    """The JSON of `marked` with other parts of its model, or other parts."""
    settings = json.loads(marked().to_str())
    for name, value in parts.items():
        part = settings["model"] if name in settings["model"] else settings
        part[name] = value
    return json.dumps(settings)


@pytest.mark.parametrize(
    "source",
    [
        changed(decoder={"type": "Fuse"}), changed(merges=[["t", "nothing"]]), changed(merges="none"),
        changed(vocab={"a": 0, "b": 0}), changed(vocab={"a": "0"}), changed(vocab=["a"]), changed(added_tokens=[{}]),
        changed(added_tokens=[{"id": 7, "content": "</s>"}]), changed(end_of_word_suffix="</w>"), byte_level().to_str(),
    ],
)  # fmt: skip
def test_other_tokenizers_are_left_to_the_library(source: str) -> None:
    """Also those that it refuses, which is then said while loading."""
    assert MarkedPieces.of(json.loads(source)) is None
    assert MarkedPieces.of(json.loads(marked().to_str())) is not None
