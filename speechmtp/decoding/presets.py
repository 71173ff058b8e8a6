"""Published systems as whole rows: head family, tapped layers, tree, rule and training loss under one name.

What each leaves out or does otherwise than its paper is said in `differs`, and from here in the documentation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from speechmtp.decoding.strategies import Strategy, make_strategy
from speechmtp.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A published system. `strategy` and `options` are a row of the table; `heads` what the configuration of its head
    set must say (True: anything but nothing), and `training` the options of `speechmtp train heads` that make one."""

    summary: str
    paper: str
    strategy: str
    differs: str
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[str, Any] = field(default_factory=dict)
    training: str = ""

    def fits(self, config: Any) -> bool:
        """Whether a head set's configuration is of this kind, and deep enough for the drafts."""
        if config.depth < self.options.get("depth", 1):
            return False
        found = {key: getattr(config, key, None) for key in self.heads}
        return all(bool(found[key]) if wanted is True else found[key] == wanted for key, wanted in self.heads.items())

    @property
    def loss(self) -> str:
        """The training losses as its options say them."""
        return ", ".join(word for word in self.training.split() if word.startswith(("loss.", "mode=", "targets=")))


PRESETS: dict[str, Preset] = {
    "blockwise": Preset(
        "one feed-forward block a depth on the last state, shared unembedding, greedy match",
        "Stern et al. 2018, arXiv 1811.03115",
        "verify",
        "frozen trunk and all depths in every update, where the paper trains one depth an update, and the trunk too in "
        "its best rows; its relaxed rules are the strategies top-k, distance and min-block",
        {"depth": 7},
        {"kind": "residual", "unembedding": "shared"},
        "--heads residual --depth 7 loss.decay=1",
    ),
    "medusa": Preset(
        "residual blocks with unembeddings of their own, a static tree, typical acceptance",
        "Cai et al. 2024, arXiv 2401.10774",
        "typical",
        "Medusa-1 training (frozen trunk, losses weighted by 0.8^d); the tree's ranks are the table's default unless "
        "`tune` has calibrated one, its own are for a 7 B chat model; the base token is the trunk's first choice or a "
        "draw of its law",
        {"depth": 4, "paths": "0.1.2.00.01.02.10.11.20.000.001.010.100.0000.0001.0010"},
        {"kind": "residual", "unembedding": "own"},
        "--heads residual heads.unembedding=own --depth 4 loss.decay=0.8",
    ),
    "eagle": Preset(
        "one shared decoder layer run in a chain on three tapped layers, a tree that its confidence grows",
        "Li et al. 2024 and 2025, arXiv 2406.16858, 2503.01840",
        "dynamic-tree",
        "EAGLE-3's taps and training on its own states, EAGLE-2's tree, of 24 nodes in place of 60; full vocabulary; "
        "the trunk's unembedding; no feature loss",
        {"depth": 7, "width": 4, "nodes": 24},
        {"kind": "chain", "layers": "shared", "attention": "ttt", "taps": True},
        "--heads chain heads.attention=ttt heads.taps=[1,2] --depth 7 loss.decay=0.8",
    ),
    "dflash": Preset(
        "a block drafter: all tokens from one pass over masks, trunk states injected as keys and values",
        "Chen et al. 2026, arXiv 2602.06036",
        "verify",
        "two draft layers in place of five; losses weighted by 0.8^d in place of exp(-d / gamma), the same form",
        {"depth": 7},
        {"kind": "block", "correction": "none", "taps": True},
        "--heads block heads.taps=[1,2] heads.layers=2 --depth 7 loss.decay=0.8",
    ),
    "deepseek-mtp": Preset(
        "one module of a projection and a decoder layer, one token ahead",
        "DeepSeek-AI 2024, arXiv 2412.19437",
        "verify",
        "frozen trunk by default, where the paper trains the module with the trunk (mode=joint does); dense layer",
        {"depth": 1},
        {"kind": "chain", "layers": "own", "attention": "roll"},
        "--heads chain heads.layers=own --depth 1",
    ),
    "speech-llama": Preset(
        "latent-space heads, tokens kept while their confidence holds",
        "Raj et al. 2024, arXiv 2409.08148",
        "threshold",
        "the paper trains heads and model together and does not say theta; ours is tuned on development data or 0.9; "
        "its verified form is `verify` with the same heads, its prefix beam search is not built",
        {"depth": 3, "theta": 0.9, "measure": "token"},
        {"kind": "latent"},
        "--heads latent --depth 3",
    ),
    "vocalnet": Preset(
        "decoder layers in a chain without tokens, three tokens a call, nothing verified",
        "Wang et al. 2025, VocalNet, github.com/SJTU-OmniAgent/VocalNet",
        "threshold",
        "for text here, for codec tokens there; penalties apply at every depth, theirs at the first alone",
        {"depth": 2, "theta": 0.0, "measure": "token"},
        {"kind": "vocalnet"},
        "--heads vocalnet --depth 5 loss.decay=0.8",
    ),
    "mtad": Preset(
        "the likeliest beam of a small model, kept while its joint probability under the trunk holds",
        "Qin et al. 2024, arXiv 2407.09722",
        "joint-ratio",
        "the chain form; at temperature 0 beams are searched, not drawn",
        {"depth": 4, "width": 4, "top_k": 10, "top_p": 0.9, "tau": 0.5},
    ),
    "lookahead": Preset(
        "Jacobi guesses in a window and n-grams pooled from them",
        "Fu et al. 2024, arXiv 2402.02057",
        "jacobi",
        "window columns that are not known yet repeat the text, there they are random; columns move by all that is "
        "emitted",
        {"window": 15, "ngram": 5, "guesses": 15},
    ),
    "prompt-lookup": Preset(
        "copies what followed the first place where the text's last two tokens stood",
        "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding; transformers' options",
        "lookup",
        "a copy that reaches the text's end goes on with what it copied",
        {"depth": 10, "longest": 2, "shortest": 1, "match": "first"},
    ),
}


def make_preset(name: str, given: Mapping[str, Any]) -> Strategy:
    """The strategy of a published system; only its head set, and what `tune` chooses, can be given."""
    preset = PRESETS[name]
    allowed = [key for key in ("heads", "theta", "paths") if (key == "heads" and preset.heads) or key in preset.options]
    for key in given:
        if key not in allowed:
            raise ConfigError(
                f"strategy {name}: no option {key!r}, a preset is fixed; allowed: {', '.join(allowed) or 'none'}; its "
                f"row is {make_strategy(preset.strategy, dict(preset.options)).label}"
            )
    row = make_strategy(preset.strategy, {**preset.options, **given})
    return replace(row, name=name, given=dict(given), preset=preset)


def training_command(name: str, model: str) -> str:
    """The command that trains the heads of a preset."""
    preset = PRESETS[name]
    return f"speechmtp train heads --model {model} {preset.training} --train DATA --dev DEV --out {name}"
