"""Train the tagger of `speechmtp/g2p/tagger.py` on sentences whose tags another tagger gives.

    python tools/g2p_tagger.py SENTENCES.tsv OUT.npz [--epochs 5] [--keep 40000]

A line holds one sentence: words and marks with their tags, `word<TAB>tag<TAB>word<TAB>tag...`; tags beyond
`tagger.TAGS` are mapped onto these. One sentence in fifty is held out for the printed accuracy. The `--keep` features
of most effect stay; `tools/make_g2p.py` packs OUT.npz into the assets.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

import numpy as np

from speechmtp.g2p.tagger import TAGS, Tagger, features

Sentence = tuple[list[str], list[int]]


def coarse(tag: str) -> int:
    """Index in `TAGS` of a tag of the Penn Treebank."""
    for start, name in (("NNP", "NNP"), ("NN", "NN"), ("JJ", "JJ"), ("RB", "RB"), ("PRP", "PRP"), ("PDT", "DT")):
        if tag.startswith(start):
            return TAGS.index(name)
    return TAGS.index(tag if tag in TAGS else "X")


def read(path: Path) -> list[Sentence]:
    """Words and tags of every line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split("\t")
        found.append((fields[::2], [coarse(tag) for tag in fields[1::2]]))
    return found


def train(sentences: list[Sentence], epochs: int) -> tuple[dict[str, int], np.ndarray]:
    """Rows of features and their averaged weights."""
    rng = random.Random(0)
    counts: Counter[str] = Counter()
    for words, tags in sentences:
        for i in range(len(words)):
            last, before = TAGS[tags[i - 1]] if i else "-2", TAGS[tags[i - 2]] if i > 1 else "-1" if not i else "-2"
            counts.update(features(words, i, last, before))
    rows = {name: row for row, name in enumerate(name for name, count in counts.items() if count > 2)}
    weights = np.zeros((len(rows), len(TAGS)), np.float32)
    sums = np.zeros_like(weights, dtype=np.float64)
    step = 0
    for epoch in range(epochs):
        rng.shuffle(sentences)
        wrong = total = 0
        for words, tags in sentences:
            before, last = "-1", "-2"
            for i, true in enumerate(tags):
                step += 1
                used = [rows[name] for name in features(words, i, last, before) if name in rows]
                guess = int(weights[used].sum(0).argmax())
                if guess != true:
                    weights[used, true] += 1
                    weights[used, guess] -= 1
                    sums[used, true] += step
                    sums[used, guess] -= step
                    wrong += 1
                total += 1
                before, last = last, TAGS[guess]
        print(f"epoch {epoch + 1}: {100 * wrong / total:.2f} % wrong", flush=True)
    return rows, weights - sums / step


def prune(rows: dict[str, int], weights: np.ndarray, keep: int) -> tuple[dict[str, int], np.ndarray]:
    """The features with the largest weights, as int8."""
    size = np.abs(weights).max(1)
    names = sorted(rows, key=lambda name: -size[rows[name]])[:keep]
    names.sort()
    kept = weights[[rows[name] for name in names]]
    scale = 127 / np.quantile(np.abs(kept).max(1), 0.999)
    return {name: i for i, name in enumerate(names)}, np.clip(np.round(kept * scale), -127, 127).astype(np.int8)


def accuracy(tagger: Tagger, sentences: list[Sentence]) -> float:
    """Right tags per hundred."""
    pairs = [(TAGS[tag], said) for words, tags in sentences for tag, said in zip(tags, tagger(words), strict=True)]
    return 100 * sum(true == said for true, said in pairs) / len(pairs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sentences", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--keep", type=int, default=40000)
    options = parser.parse_args()
    given = read(options.sentences)
    held, kept = given[::50], [one for i, one in enumerate(given) if i % 50]
    found, averaged = train(kept, options.epochs)
    print(f"{len(found)} features, {accuracy(Tagger(found, averaged), held):.2f} % right")
    names, small = prune(found, averaged, options.keep)
    print(f"{len(names)} kept, {accuracy(Tagger(names, small), held):.2f} % right")
    np.savez(options.out, names="\n".join(names), weights=small)
