"""Training input of heads for text LMs: texts packed into rows, with the first tokens of each text as its prompt."""

from collections.abc import Sequence

from torch import Tensor

from speechmtp.batching import ROWS, batches_by_size
from speechmtp.data.batch import seeded
from speechmtp.decoding.engine import Limits, plain_outputs
from speechmtp.errors import ConfigError, DataError
from speechmtp.evaluation.held_out import long_texts, read_texts, text_dev, text_prompt
from speechmtp.models.bases.contract import TextModel
from speechmtp.models.trunk import Trunk
from speechmtp.training.multi_token import Sequences
from speechmtp.training.packing import Piece, fill_rows, pack_rows, positions_in
from speechmtp.training.tasks.head_inputs.contract import HeadInput, HeadInputs, Note
from speechmtp.training.tasks.heads import HeadsTrainConfig
from speechmtp.types import TokenRules


def text_input(asked: HeadInputs, note: Note) -> HeadInput:
    """Training data and development set from text files. ConfigError for a cache, since there is no audio to encode."""
    lm, config = asked.bundle.text_model, asked.config
    if asked.cache:
        raise ConfigError(f"heads: cache={asked.cache} is for encoder outputs, but {lm.name} reads text; leave it out")
    texts = long_texts(lm, asked.dev, config.prompt_tokens)
    return text_data(lm, asked.train, config), text_dev(lm, texts, config.prompt_tokens, config.size)


def text_data(lm: TextModel, files: Sequence[str], config: HeadsTrainConfig) -> "PackedTexts":
    """Build training data from text files with one text per line; with targets `own` the texts after the prompts are
    the model's own."""
    texts = [text[: config.size] for text in read_texts(lm, files)]
    if config.targets == "own":
        texts = own_continuations(lm.trunk, texts, config.prompt_tokens, lm.eos[0])
    return PackedTexts(lm.trunk, texts, config.rows, config.size, config.prompt_tokens, config.seed)


class PackedTexts:
    """Token lists packed into rows of `size` entries; each text is a segment with positions from 0. The first
    `prompt_tokens` tokens of a text are its prompt, and texts without more tokens are left out. DataError if none is
    left."""

    def __init__(
        self, trunk: Trunk, texts: Sequence[Sequence[int]], rows: int, size: int, prompt_tokens: int, seed: int
    ) -> None:
        self._texts = [list(t[:size]) for t in texts if len(t) > prompt_tokens]
        if not self._texts or size <= prompt_tokens:
            raise DataError(
                f"heads: no text longer than its prompt of {prompt_tokens} tokens to train on, rows of {size}; lower "
                f"`prompt_tokens` or give longer texts"
            )
        self._trunk, self._rows, self._size, self._prompt_tokens, self._seed = trunk, rows, size, prompt_tokens, seed
        order = seeded("packed", seed).permutation(len(self._texts)).tolist()
        self._packed = pack_rows([len(text) for text in self._texts], order, size, cut=False)

    def batch(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, segments and positions [B, L] of packed rows; each row is used once per epoch."""
        rows = self._drawn(number)
        ids = fill_rows(rows, self._size, -1, lambda piece: self._texts[piece.text])
        segments = fill_rows(rows, self._size, -1, lambda piece: piece.place)
        return ids, segments, positions_in(segments).masked_fill(segments < 0, 0)

    def _drawn(self, number: int) -> list[list[Piece]]:
        """The packed rows of batch `number`."""
        size, found = len(self._packed), []
        for epoch in range(number * self._rows // size, ((number + 1) * self._rows - 1) // size + 1):
            order = seeded("packed", self._seed, epoch).permutation(size)
            first, last = number * self._rows - epoch * size, (number + 1) * self._rows - epoch * size
            found += [self._packed[i] for i in order[max(0, first) : last]]
        return found

    def count(self, batch: tuple[Tensor, Tensor, Tensor]) -> int:
        """Number of tokens after the prompts."""
        _, segments, positions = batch
        return int(((segments >= 0) & (positions >= self._prompt_tokens)).sum())

    def sequences(self, batch: tuple[Tensor, Tensor, Tensor]) -> Sequences:
        """The rows with their embeddings, and starts from the last token of each prompt on."""
        device = self._trunk.unembedding().weight.device
        ids, segments, positions = (part.to(device) for part in batch)
        starts = (segments >= 0) & (positions >= self._prompt_tokens - 1)
        return Sequences(self._trunk.embed(ids.clamp_min(0)), positions, ids, segments, starts)

    def tokens(self) -> Sequence[Sequence[int]]:
        """The token ids of all texts without their prompts."""
        return [text[self._prompt_tokens :] for text in self._texts]


def own_continuations(trunk: Trunk, texts: Sequence[Sequence[int]], prompt_tokens: int, eos: int) -> list[list[int]]:
    """Texts whose tokens after the first `prompt_tokens` are replaced by at most as many greedy tokens of the model;
    texts without more tokens are left out."""
    known = [list(text) for text in texts if len(text) > prompt_tokens]
    found: list[list[int]] = []
    rules = TokenRules((eos,))
    for indices in batches_by_size([len(text) for text in known], ROWS):  # rows of a batch end at similar times
        group = [known[index] for index in indices]
        size = len(group[-1]) - prompt_tokens
        prompt = text_prompt(trunk, [text[:prompt_tokens] for text in group])
        outputs = plain_outputs(trunk, prompt, rules, Limits(0.0, size, size))
        found += [text[:prompt_tokens] + row[: len(text) - prompt_tokens] for text, row in zip(group, outputs)]
    return found
