"""Published systems as presets: head family, tapped layers, tree, rule and training loss under one name.

What a preset leaves out or does differently from its paper is in `differs`, which the documentation shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A published system. `strategy` and `options` are a row of the strategy table. `heads` are values that the
    configuration of its head set must have (True: any value that is not empty), `training` are the options of
    `speechmtp train heads` that train such heads."""

    summary: str
    paper: str
    strategy: str
    differs: str
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""

    def fits(self, config: Any) -> bool:
        """Whether a head set's configuration has these values and is deep enough for the drafts."""
        if config.depth < self.options.get("depth", 1):
            return False
        found = {key: getattr(config, key, None) for key in self.heads}
        return all(bool(found[key]) if wanted is True else found[key] == wanted for key, wanted in self.heads.items())

    @property
    def free(self) -> tuple[str, ...]:
        """The options that can be set: the head set, and what `tune` chooses."""
        return tuple(k for k in ("heads", "theta", "paths") if (k == "heads" and self.heads) or k in self.options)

    @property
    def loss(self) -> str:
        """The options of `training` that set losses, mode or targets."""
        return ", ".join(word for word in self.training.split() if word.startswith(("loss.", "mode=", "targets=")))


PRESETS: dict[str, Preset] = {
    "blockwise": Preset(
        "one feed-forward block a depth on the last state, shared unembedding, greedy match",
        "Stern et al. 2018, arXiv 1811.03115",
        "verify",
        "one SiLU matrix a depth in place of a feed-forward layer with a wider hidden one; all depths in every update, "
        "where the paper draws one, and a frozen trunk, where its best rows train it too; its relaxed rules are the "
        "strategies top-k, distance and min-block",
        {"depth": 7},
        {"kind": "residual", "unembedding": "shared"},
        "--family residual --depth 7 loss.decay=1",
    ),
    "medusa": Preset(
        "residual blocks with unembeddings of their own, a static tree, typical acceptance",
        "Cai et al. 2024, arXiv 2401.10774",
        "typical",
        "Medusa-1 training (frozen trunk, losses weighted by 0.8^d) on the model's own output; a tree of 16 nodes, "
        "ranks by hand unless `paths` gives calibrated ones, where theirs has 63 for a 7 B chat model; at temperature "
        "0 the rule reads the distribution of temperature 1, where theirs is greedy match; above it the token behind "
        "the accepted ones is drawn, where theirs is the likeliest; of equally long paths the first drafted wins, "
        "theirs is the likeliest",
        {"depth": 4, "paths": "0.1.2.00.01.02.10.11.20.000.001.010.100.0000.0001.0010"},
        {"kind": "residual", "unembedding": "own"},
        "--family residual --depth 4 heads.unembedding=own loss.decay=0.8",
    ),
    "eagle": Preset(
        "one shared decoder layer run in a chain on three tapped layers, a tree that its confidence grows",
        "Li et al. 2024 and 2025, arXiv 2406.16858, 2503.01840",
        "dynamic-tree",
        "EAGLE-3's taps and training on its own states, with EAGLE-2's tree of 24 nodes, 4 a level, in place of 60 "
        "and 10; labels in place of the trunk's distribution (loss.kind=kd trains on that); the trunk's unembedding, "
        "where EAGLE-3 has one of its own over fewer tokens",
        {"depth": 7, "width": 4, "nodes": 24},
        {"kind": "chain", "layers": "shared", "attention": "ttt", "taps": True},
        "--family chain --depth 7 heads.attention=ttt 'heads.taps=[1,2]' loss.decay=0.8",
    ),
    "dflash": Preset(
        "a block drafter: all tokens from one pass over masks, trunk states injected as keys and values",
        "Chen et al. 2026, arXiv 2602.06036",
        "verify",
        "two draft layers and two taps besides the last state in place of five and five, 7 drafted tokens in place of "
        "15; every place of a text starts a block, where theirs are drawn; losses weighted by 0.8^d, the same form as "
        "their exp(-(d - 1) / gamma) up to a factor",
        {"depth": 7},
        {"kind": "block", "correction": "none", "taps": True},
        "--family block --depth 7 heads.layers=2 'heads.taps=[1,2]' loss.decay=0.8",
    ),
    "deepseek-mtp": Preset(
        "one module of a projection and a decoder layer, one token ahead",
        "DeepSeek-AI 2024, arXiv 2412.19437",
        "verify",
        "frozen trunk by default, where the paper trains module and trunk together (mode=joint does); a dense layer, "
        "where theirs has experts",
        {"depth": 1},
        {"kind": "chain", "layers": "own", "attention": "roll"},
        "--family chain --depth 1 heads.layers=own",
    ),
    "speech-llama": Preset(
        "latent-space heads, tokens kept while their confidence holds, nothing verified",
        "Raj et al. 2024, arXiv 2409.08148",
        "threshold",
        "frozen trunk by default (mode=joint trains both); depth 3 and theta 0.9, unless development data chose "
        "another, are ours, the paper's are not known here; its verified form is `verify` with the same heads, its "
        "prefix beam search is not built",
        {"depth": 3, "theta": 0.9, "measure": "token"},
        {"kind": "latent"},
        "--family latent --depth 3",
    ),
    "vocalnet": Preset(
        "decoder layers in a chain without tokens, three tokens a call, nothing verified",
        "Wang et al. 2025, arXiv 2504.04060, and its code as released",
        "threshold",
        "heads of a frozen trunk for text, theirs learn with the decoder of speech tokens; sampling and penalties "
        "apply at every depth, theirs at the first alone",
        {"depth": 2, "theta": 0.0, "measure": "token"},
        {"kind": "vocalnet"},
        "--family vocalnet --depth 5 loss.decay=0.8",
    ),
    "mtad": Preset(
        "the likeliest beam of a small model, its longest prefix with joint probability enough under the trunk",
        "Qin et al. 2024, arXiv 2407.09722",
        "joint-ratio",
        "the chain form, not that of several candidates in a tree; at temperature 0 beams are searched, not drawn; a "
        "beam ends with an end token",
        {"depth": 4, "width": 4, "top_k": 10, "top_p": 0.9, "tau": 0.5},
    ),
    "lookahead": Preset(
        "Jacobi guesses in a window and n-grams pooled from them",
        "Fu et al. 2024, arXiv 2402.02057",
        "jacobi",
        "window columns that are not known yet repeat the text, theirs are random; columns move by all that is "
        "emitted, theirs by one; the window's own guesses are verified too",
        {"window": 15, "ngram": 5, "guesses": 15},
    ),
    "prompt-lookup": Preset(
        "copies what followed the first place where the text's last two tokens, or the last one, stood before",
        "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding",
        "lookup",
        "transformers' options: n-grams of 2 tokens, Saxena's code has 3; a copy that reaches the text's end goes on "
        "with what it copied",
        {"depth": 10, "longest": 2, "shortest": 1, "match": "first"},
    ),
}


def training_command(name: str, model: str) -> str:
    """The command line that trains the heads of a preset."""
    preset = PRESETS[name]
    return f"speechmtp train heads --model {model} {preset.training} --train DATA --dev DEV --out {name}"
