"""Train the network that reads unknown words (`speechmtp/g2p/student.py`): letters to phones, by CTC.

    python tools/g2p_student.py LEXICON_FOLDER CMUDICT.gz OUT.npz [--epochs 6]

It learns from misaki's lexicon (us_gold.json and us_silver.json, gzipped or not, in LEXICON_FOLDER) and from the words
of CMUdict that misaki's lexicon lacks, in misaki's symbols. Every hundredth word is held out, and the phone error on
these is printed after each epoch. `tools/make_g2p.py` packs OUT.npz into the assets.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from make_g2p import cmudict_words, read
from torch import nn

from speechmtp.g2p.student import LETTERS, LONGEST, PHONES, SLOTS

WIDTH, BLOCKS, KERNEL = 128, 5, 5


def read_pairs(lexicon: Path, cmudict: Path) -> list[tuple[str, str]]:
    """Words of small letters and their phones: misaki's first, and CMUdict's where misaki has none."""
    known: dict[str, str] = {}
    for name in ("gold", "silver"):
        for word, value in read(lexicon, f"us_{name}").items():
            phones = value if isinstance(value, str) else value["DEFAULT"]
            if phones and (word[1:] == word[1:].lower()):  # words of capitals are often spelled
                known.setdefault(word.lower(), phones.replace("ɾ", "T").replace("ʔ", "t"))
    known = cmudict_words(cmudict) | known
    good = [
        (w, p) for w, p in known.items() if 1 < len(w) <= LONGEST and set(w) <= set(LETTERS) and set(p) <= set(PHONES)
    ]
    return sorted(pair for pair in good if len(pair[1]) <= SLOTS * len(pair[0]))


class Student(nn.Module):
    """Residual convolutions over letters; every letter has `SLOTS` outputs, read together by CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS) + 1, WIDTH, padding_idx=0)
        self.blocks = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2) for _ in range(BLOCKS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(BLOCKS))
        self.out = nn.Linear(WIDTH, SLOTS * (len(PHONES) + 1))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Logits [B, SLOTS · T, phones + 1] of letters [B, T] (int64, 0 is padding)."""
        mask = (letters > 0)[..., None]
        x = self.embed(letters)
        for conv, norm in zip(self.blocks, self.norms, strict=True):
            y = conv((norm(x) * mask).transpose(1, 2)).transpose(1, 2)
            x = x + torch.relu(y)
        return self.out(x).view(len(letters), -1, len(PHONES) + 1)


def batch_of(pairs: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Letters [B, T], all phones joined, and the two lengths CTC wants."""
    letters = [torch.tensor([LETTERS.index(c) + 1 for c in word]) for word, _ in pairs]
    phones = [[PHONES.index(c) + 1 for c in said] for _, said in pairs]
    lengths = torch.tensor([SLOTS * len(word) for word, _ in pairs])
    joined = torch.tensor([one for said in phones for one in said])
    return nn.utils.rnn.pad_sequence(letters, True), joined, lengths, torch.tensor([len(said) for said in phones])


def error(model: Student, pairs: list[tuple[str, str]]) -> float:
    """Phone errors per hundred phones on held-out words."""
    from rapidfuzz.distance import Levenshtein

    wrong = total = 0
    model.eval()
    for start in range(0, len(pairs), 256):
        part = pairs[start : start + 256]
        letters, _, lengths, _ = batch_of(part)
        with torch.no_grad():
            best = model(letters).argmax(-1)
        for row, size, (_, said) in zip(best, lengths, part, strict=True):
            ids = torch.unique_consecutive(row[:size]).tolist()
            read = "".join(PHONES[i - 1] for i in ids if i)
            wrong += Levenshtein.distance(read, said)
            total += len(said)
    model.train()
    return 100 * wrong / total


def train(pairs: list[tuple[str, str]], epochs: int, out: Path) -> None:
    """Adam with a one-cycle rate, words of like lengths together; writes the weights after each epoch."""
    torch.manual_seed(0)
    rng = random.Random(0)
    held, kept = pairs[::100], [pair for i, pair in enumerate(pairs) if i % 100]
    kept.sort(key=lambda pair: (len(pair[0]), rng.random()))
    batches = [kept[start : start + 192] for start in range(0, len(kept), 192)]
    model = Student()
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 2e-3, total_steps=epochs * len(batches), pct_start=0.1)
    print(f"{len(kept)} words, {sum(p.numel() for p in model.parameters())} weights", flush=True)
    for epoch in range(epochs):
        rng.shuffle(batches)
        for part in batches:
            letters, phones, lengths, sizes = batch_of(part)
            scores = model(letters).log_softmax(-1).transpose(0, 1)
            loss = nn.functional.ctc_loss(scores, phones, lengths, sizes, zero_infinity=True)
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            adam.step()
            rate.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {error(model, held):.2f} % phone error", flush=True)
        np.savez(out, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("lexicon", type=Path)
    parser.add_argument("cmudict", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(read_pairs(options.lexicon, options.cmudict), options.epochs, options.out)
