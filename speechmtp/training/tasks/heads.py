"""Task `heads`: train multi-token heads for a trained trunk, which is frozen or trained with them."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from speechmtp.config import Range, Seed, Share, Size, check_fields
from speechmtp.errors import ConfigError
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet
from speechmtp.heads.table import HeadsConfig
from speechmtp.models.lora import Lora
from speechmtp.models.trunk import Trunk
from speechmtp.training.loop import LoopConfig, finished, load_finished, run_phase
from speechmtp.training.losses import MultiTokenConfig
from speechmtp.training.multi_token import Sequences, multi_token_loss
from speechmtp.training.optim import OptimConfig
from speechmtp.training.tasks.ctc import AugmentConfig
from speechmtp.training.tasks.head_data import HeadData

Mode = Literal["frozen", "joint", "lora", "two_stage"]


@dataclass(frozen=True)
class HeadsTrainConfig:
    """Options of one training of heads.

    `mode`: `frozen` trains the heads alone; `joint` trains trunk and heads; `lora` trains low-rank adapters of the
    trunk (merged at the end) and heads; `two_stage` trains the heads alone for `first_share` of the steps, then both
    (Medusa-2, arXiv 2401.10774). The trunk's learning rate is `trunk_factor` times the heads'. `targets`: `own` are the
    model's own outputs (self-distillation), `text` the transcripts. With `kl_to_base` the target of depth 0 is the
    trunk's distribution before training. `rows` is the batch size; `anchors` the largest number of entries per row for
    which the heads are trained, 0 for all. For audio, `passes` is the number of passes over the training audio, all but
    the first augmented (for a pretrained recogniser, at other speeds) at random with `prompts_seed`. For text, rows
    hold up to `size` tokens of packed texts, and the first `prompt_tokens` tokens of each text are its prompt.
    """

    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    heads: HeadsConfig = field(default_factory=ChainHeadsConfig)
    mode: Mode = "frozen"
    targets: Literal["own", "text"] = "own"
    kl_to_base: bool = False
    first_share: Share = 0.5
    trunk_factor: Annotated[float, Range(0)] = 0.1
    lora_rank: Size = 16
    lora_alpha: int = 32
    steps: Annotated[int, Range(1)] = 1000
    rows: Size = 32
    anchors: Annotated[int, Range(0)] = 0
    passes: Annotated[int, Range(1)] = 4
    prompts_seed: Seed = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    size: Size = 256
    prompt_tokens: Size = 8
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, warmup=50, schedule="cosine", clip=1.0, ema=0.99)
    )
    loss: MultiTokenConfig = field(default_factory=lambda: MultiTokenConfig(scale=1.0, decay=0.8))
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(evaluate_every=250, save_every=250))

    def __post_init__(self) -> None:
        check_fields(self, "heads")
        if self.size <= self.prompt_tokens:
            least = self.prompt_tokens + 1
            raise ConfigError(f"heads: size {self.size}, expected {least} or more, longer than prompt_tokens")
        if self.heads.depth == 0:
            raise ConfigError("heads: depth 0 has nothing to train, expected 1 or more")


Evaluate = Callable[[HeadSet, bool], dict[str, float]]  # arguments: heads, whether the trunk is trained too


class HeadsPhase:
    """Training of heads on a trunk; `moves` says whether the trunk is trained too."""

    def __init__(
        self, config: HeadsTrainConfig, name: str, steps: int, trunk: Trunk, heads: HeadSet, data: HeadData,
        evaluate: Evaluate, precision: torch.dtype, moves: bool, lora: Lora | None = None,
    ) -> None:  # fmt: skip
        self.name, self.steps, self.optim = name, steps, config.optim
        self._config, self._trunk, self._heads, self._data = config, trunk, heads, data
        self._evaluate, self._precision, self._moves, self._lora = evaluate, precision, moves, lora
        self.module = nn.ModuleDict({"heads": heads, "trunk": trunk} if moves else {"heads": heads})
        self._before = copy.deepcopy(trunk).eval() if moves and config.kl_to_base and lora is None else None
        self._device = trunk.unembedding().weight.device
        trunk.eval()
        if lora is None:
            trunk.requires_grad_(moves)
        self.module.train()

    def parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """The heads' parameters at the full learning rate, the trunk's at `trunk_factor` of it."""
        for parameter in self._heads.parameters():
            yield parameter, 1.0
        for parameter in self._trunk.parameters() if self._moves else ():
            if parameter.requires_grad:
                yield parameter, self._config.trunk_factor

    def batch(self, number: int) -> Any:
        """The items of batch `number`. Embeddings are computed in `loss`, since training may change them."""
        return self._data.batch(number)

    def weight(self, batch: Any) -> float:
        """Number of tokens that the trunk's own head predicts."""
        return float(self._data.count(batch))

    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, float]]:
        """The multi-token loss of one batch, and sums for the log."""
        with torch.set_grad_enabled(self._moves):
            sequences = self._data.sequences(batch)
        with torch.autocast(self._device.type, self._precision, enabled=self._precision != torch.float32):
            return multi_token_loss(
                self._trunk, self._heads, sequences, self._config.loss, step, not self._moves, self._config.anchors,
                self._teacher(sequences),
            )  # fmt: skip

    @torch.no_grad()
    def _teacher(self, sequences: Sequences) -> Tensor | None:
        """Trunk states of the weights before training, if depth 0 is trained to keep their distribution."""
        if not self._moves or not self._config.kl_to_base:
            return None
        before = self._before or self._trunk
        with self._lora.off() if self._lora is not None else nullcontext():
            return before(
                sequences.embeddings, sequences.positions, sequences.segments, (), sequences.memory,
                sequences.memory_lengths,
            ).hidden  # fmt: skip

    def evaluate(self) -> dict[str, float]:
        """Development metrics of the present trunk and heads."""
        training = self._trunk.training
        self._trunk.eval()
        figures = self._evaluate(self._heads, self._moves)
        self._trunk.train(training)
        return figures


def train_heads(
    config: HeadsTrainConfig, trunk: Trunk, heads: HeadSet, data: HeadData, evaluate: Evaluate, precision: torch.dtype,
    out: Path, resume: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Train `heads`, and the trunk depending on `config.mode`, in place, each phase in a folder of `out`; returns the
    development metrics of the last phase."""
    steps = config.steps
    phases: list[tuple[str, int]] = [(config.mode, steps)]
    if config.mode == "two_stage":
        first = round(config.first_share * steps)
        phases = [(mode, n) for mode, n in (("frozen", first), ("joint", steps - first)) if n]
    torch.manual_seed(config.seed)  # so that the adapters' random start does not depend on earlier random numbers
    lora = Lora(trunk.model, config.lora_rank, config.lora_alpha) if config.mode == "lora" else None
    figures: dict[str, float] = {}
    for name, count in phases:
        moves = name != "frozen"
        stage = config if moves else replace(config, loss=replace(config.loss, warmup=0))
        phase = HeadsPhase(stage, name, count, trunk, heads, data, evaluate, precision, moves, lora)
        if resume and finished(out / name):
            figures = load_finished(phase.module, out / name)
        else:
            figures = run_phase(phase, out / name, config.loop, config.seed, resume)
    if lora is not None:
        lora.merge()
    trunk.requires_grad_(False)
    trunk.eval()
    heads.eval()
    return figures


def likely_tokens(texts: Sequence[Sequence[int]], size: int, vocab_size: int, always: Sequence[int]) -> Tensor:
    """The `size` most frequent tokens of the training texts, in order of id, with the tokens `always` included. If the
    texts have fewer, the lowest other ids are added."""
    tokens = torch.tensor([token for text in texts for token in text], dtype=torch.long)
    counts = tokens.bincount(minlength=vocab_size)
    counts[list(always)] = len(tokens) + 1
    return counts.argsort(descending=True, stable=True)[:size].sort().values
