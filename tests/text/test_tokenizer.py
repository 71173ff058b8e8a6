"""The tokenizer: exact size, fixed control ids, the same bytes from the same text."""

import hashlib
from pathlib import Path

import pytest

from speechmtp.errors import CheckpointError, ConfigError, DataError
from speechmtp.text.tokenizer import BOS, EOS, UNK, Tokenizer, train_tokenizer

LINES = [
    "ENTER SIX TWO FOUR", "GO", "STOP", "RUBOUT G M E F THREE NINE", "YES", "NO", "HELP", "ERASE C Q Q F SEVEN",
    "P I T T S B U R G H", "FORBES AVENUE", "OCTOBER TWENTY FOURTH NINETEEN SEVENTY", "JOHN DOE", "V W X Y Z K",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(LINES, 30)


@pytest.mark.parametrize("size", [30, 31, 40])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_there_are_exactly_as_many_pieces_as_asked_for(size: int, kind: str) -> None:
    assert len(train_tokenizer(LINES, size, kind)) == size


def test_control_ids_are_fixed_and_nothing_else_is_a_control(tokenizer: Tokenizer) -> None:
    assert (UNK, BOS, EOS) == (0, 1, 2)
    assert (tokenizer.unk, tokenizer.bos, tokenizer.eos) == (0, 1, 2)
    assert [tokenizer.piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert len({tokenizer.piece(i) for i in range(len(tokenizer))}) == len(tokenizer)


def test_two_trainings_give_the_same_bytes(tokenizer: Tokenizer) -> None:
    again = train_tokenizer(iter(LINES), 30)
    assert again.model == tokenizer.model
    assert tokenizer.sha256 == again.sha256 == hashlib.sha256(tokenizer.model).hexdigest()
    assert train_tokenizer(LINES, 31).sha256 != tokenizer.sha256


def test_text_survives_the_round_trip_and_the_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.sha256 == tokenizer.sha256
    for line in LINES:
        ids = loaded.encode(line)
        assert loaded.decode(ids) == line
        assert not {tokenizer.unk, tokenizer.bos, tokenizer.eos} & set(ids)
        assert loaded.decode([loaded.bos, *ids, loaded.eos]) == line


def test_nothing_is_normalised() -> None:
    wide = train_tokenizer(["ＡＢ ＢＡ", "ﬁ x"], 8)  # full width letters and a ligature, which NFKC would change
    assert wide.decode(wide.encode("ＡＢ ﬁ")) == "ＡＢ ﬁ"


def test_unknown_characters_give_the_unknown_id(tokenizer: Tokenizer) -> None:
    assert tokenizer.unk in tokenizer.encode("GO 7")
    assert tokenizer.unk not in tokenizer.encode("GO")


def test_a_vocabulary_that_does_not_fit_is_one_clear_line() -> None:
    for size in (500, 3):
        with pytest.raises(ConfigError, match=f"vocab_size {size}") as caught:
            train_tokenizer(["GO GO", "STOP"], size)
        assert "\n" not in str(caught.value)


def test_no_text_is_an_error() -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(["", "  "], 30)


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.model"):
        Tokenizer.load(tmp_path / "none.model")
    (tmp_path / "bad.model").write_bytes(b"not a model at all")
    with pytest.raises(CheckpointError, match=r"bad\.model"):
        Tokenizer.load(tmp_path / "bad.model")


def test_a_model_without_bos_and_eos_is_refused() -> None:
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(LINES), model_writer=out, vocab_size=30, bos_id=-1, eos_id=-1, minloglevel=2
    )
    with pytest.raises(CheckpointError, match="bos, eos and unk"):
        Tokenizer(out.getvalue())
