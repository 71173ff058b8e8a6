"""Phones of words that no lexicon has, by a small network: letters to phones, residual convolutions and CTC."""

from collections.abc import Mapping

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz'"  # the letters' ids start at 1
PHONES = "AIOQTWYabdfhijklmnpstuvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒʤʧˈˌθᵊᵻ"  # the ids start at 1; 0 is CTC's blank
SLOTS = 3  # outputs of one letter
LONGEST = 24  # letters that are read at once


class Student:
    """The network in NumPy.

    Arguments:
        weights: float32 arrays by their names in `tools/g2p_student.py`
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.embed = weights["embed.weight"]
        self.blocks: list[tuple[np.ndarray, ...]] = []
        while (name := f"blocks.{len(self.blocks)}.weight") in weights:
            number = len(self.blocks)
            kernel = weights[name].transpose(2, 1, 0).reshape(-1, self.embed.shape[1])
            norm = weights[f"norms.{number}.weight"], weights[f"norms.{number}.bias"]
            self.blocks.append((kernel, weights[f"blocks.{number}.bias"], *norm))
        self.size = weights["blocks.0.weight"].shape[2]
        self.out = weights["out.weight"], weights["out.bias"]

    def logits(self, word: str) -> np.ndarray:
        """Logits [SLOTS · letters, phones + 1] (float32) of a word of `LETTERS`."""
        x = self.embed[[LETTERS.index(one) + 1 for one in word]]
        half = self.size // 2
        for kernel, bias, scale, shift in self.blocks:
            y = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * scale + shift
            y = np.pad(y, ((half, half), (0, 0)))
            windows = np.concatenate([y[i : i + len(x)] for i in range(self.size)], axis=1)
            x = x + np.maximum(windows @ kernel + bias, 0)
        weight, bias = self.out
        return np.asarray((x @ weight.T + bias).reshape(SLOTS * len(x), len(PHONES) + 1))

    def __call__(self, word: str) -> str:
        """Phones of a word; what is no letter is left out, and words beyond `LONGEST` are read in pieces."""
        letters = "".join(one for one in word.lower() if one in LETTERS)
        said = ""
        for start in range(0, len(letters), LONGEST):
            best = self.logits(letters[start : start + LONGEST]).argmax(1)
            kept = best[np.diff(best, prepend=0) != 0]
            said += "".join(PHONES[i - 1] for i in kept if i)
        return said
