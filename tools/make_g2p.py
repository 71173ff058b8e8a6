"""Make the assets of `speechmtp/g2p`, by hand.

    python tools/make_g2p.py lexicon FOLDER CMUDICT.gz
    python tools/make_g2p.py student WEIGHTS.npz
    python tools/make_g2p.py tagger WEIGHTS.npz

FOLDER holds misaki's us_gold.json and us_silver.json (gzipped or not): the package misaki has them in misaki/data, the
package hibari-tts in hibari/assets. WEIGHTS.npz is what `tools/g2p_student.py` and `tools/g2p_tagger.py` write.
"""

import argparse
import gzip
import io
import json
import lzma
import re
from pathlib import Path
from typing import Any

import numpy as np

from speechmtp.g2p.assets import FOLDER, pack_lexicon
from speechmtp.g2p.lexicon import Entry, Lexicon

VOWELS = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "W", "AY": "I", "EH": "ɛ", "ER": "ɜɹ", "EY": "A", "IH": "ɪ",
    "IY": "i", "OW": "O", "OY": "Y", "UH": "ʊ", "UW": "u",
}  # fmt: skip
CONSONANTS = {
    "B": "b", "CH": "ʧ", "D": "d", "DH": "ð", "F": "f", "G": "ɡ", "HH": "h", "JH": "ʤ", "K": "k", "L": "l", "M": "m",
    "N": "n", "NG": "ŋ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "V": "v", "W": "w", "Y": "j",
    "Z": "z", "ZH": "ʒ",
}  # fmt: skip


def misaki_phones(arpabet: list[str]) -> str:
    """Misaki's symbols for a pronunciation in ARPAbet: stress before the vowel, weak vowels, flapped t."""
    text = ""
    for phone in arpabet:
        name, stress = (phone[:-1], phone[-1]) if phone[-1].isdigit() else (phone, "")
        weak = stress == "0" and {"AH": "ə", "ER": "əɹ"}.get(name)
        text += {"1": "ˈ", "2": "ˌ"}.get(stress, "") + (weak or VOWELS.get(name) or CONSONANTS[name])
    text = re.sub(r"(?<=[AIOWYiuæɑəɛɪɹʊʌ])t(?=[əiɪOuʌ])", "T", text)
    text = re.sub(r"(?<=[bdfkpstvzʃT])əl$", "ᵊl", text)
    return re.sub(r"(?<=[dst])ən$", "ᵊn", text)


def read(folder: Path, name: str) -> dict[str, Any]:
    """A lexicon of misaki's, gzipped or not."""
    path = next(folder.glob(f"*{name}.json*"))
    data = path.read_bytes()
    entries: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return entries


def cmudict_words(path: Path) -> dict[str, str]:
    """The words of CMUdict in small letters, with their first pronunciation in misaki's symbols."""
    words = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        word, *arpabet = line.split("#")[0].split()
        if "(" not in word:
            words[word] = misaki_phones(arpabet)
    return words


def write(name: str, data: bytes) -> None:
    """One asset."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_bytes(data)
    print(f"{name}: {len(data)} bytes")


def lexicons(folder: Path, cmudict: Path) -> None:
    """Misaki's two lexicons, where an empty reading says that a word is spelled, and what CMUdict adds to them."""
    layers: list[dict[str, Entry]] = []
    for name in ("gold", "silver"):
        entries = read(folder, f"us_{name}")
        for word, entry in entries.items():
            if isinstance(entry, dict):
                entries[word] = {tag: phones or "" for tag, phones in entry.items()}
        layers.append(entries)
        write(f"{name}.txt.xz", pack_lexicon(entries))
    known = Lexicon(*layers, {}, {})
    words = cmudict_words(cmudict)
    spoken = {word: phones for word, phones in words.items() if word.replace("'", "").isalpha() and len(word) > 1}
    more = {word: phones for word, phones in spoken.items() if known.say(word, "NN", False) is None}
    rest = Lexicon({}, more, {}, {})
    # Plurals and pasts that follow from another word are left out.
    write("bronze.txt.xz", pack_lexicon({word: said for word, said in more.items() if not rest.inflected(word)}))


def student(path: Path) -> None:
    """The network for unknown words: matrices as int8 with a scale a row, the rest as float16."""
    arrays: dict[str, np.ndarray] = {}
    for name, weight in np.load(path).items():
        if weight.ndim < 2:
            arrays[name] = weight.astype(np.float16)
            continue
        scale = np.abs(weight).reshape(len(weight), -1).max(1).clip(1e-8) / 127
        arrays[name] = np.round(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        arrays[f"{name}.scale"] = scale.astype(np.float32)
    write("student.npz.xz", packed(arrays))


def tagger(path: Path) -> None:
    """The tagger's features, by name, and their weights."""
    data = np.load(path)
    names = np.frombuffer(str(data["names"]).encode(), np.uint8)
    write("tagger.npz.xz", packed({"names": names, "weights": data["weights"].T.copy()}))


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as an .npz file, compressed."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return lzma.compress(file.getvalue(), preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["lexicon", "student", "tagger"])
    parser.add_argument("source", type=Path, nargs="+")
    options = parser.parse_args()
    {"lexicon": lexicons, "student": student, "tagger": tagger}[options.what](*options.source)
