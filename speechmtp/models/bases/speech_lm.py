"""Our own speech LLM: an encoder with a CTC head, an adapter, and a decoder that reads the audio prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from safetensors.torch import save_file
from torch import Tensor

from speechmtp.audio.features import Fbank, FbankConfig
from speechmtp.errors import CheckpointError
from speechmtp.models.adapter import CtcMerge
from speechmtp.models.alignment import Lag
from speechmtp.models.bases.contract import FeatureModel, SpeechModel
from speechmtp.models.ctc_labels import CtcLogits, greedy_labels
from speechmtp.models.draft_prompt import DraftPrompt
from speechmtp.models.encoder_lm import EncoderLM, ModelConfig
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack, weights_digest
from speechmtp.text.tokenizer import Tokenizer
from speechmtp.types import Request, Source

LONGEST_SECONDS = 120.0  # attention over the whole utterance: memory grows with the square of this


@dataclass(frozen=True)
class SpeechLMSettings(ModelConfig):
    """`model` in config.yaml."""

    kind: Literal["speech_lm"] = "speech_lm"

    @classmethod
    def of(cls, sizes: ModelConfig) -> "SpeechLMSettings":
        """Return the settings with these sizes."""
        return cls(sizes.encoder, sizes.adapter, sizes.trunk)


class SpeechLM(FeatureModel):
    """A speech LLM from a folder with `config.yaml`, `model.safetensors` and `tokenizer.model`."""

    kind: ClassVar[str] = "speech_lm"
    title: ClassVar[str] = "a speech LLM of ours"
    settings: ClassVar[type] = SpeechLMSettings
    normalizer: ClassVar[str] = "kaldi-basic"
    ctc_lag: ClassVar[Lag] = Lag(-0.086, -0.118)

    def __init__(self, config: SpeechLMSettings, tokenizer: Tokenizer, features: FbankConfig) -> None:
        EncoderLM.__init__(self, config, len(tokenizer), tokenizer.bos)
        self.tokenizer, self.features, self._fbank = tokenizer, features, Fbank(features)
        self.eos = (tokenizer.eos,)
        own: Any = self.trunk.model
        own.generation_config = type(own.generation_config)(eos_token_id=tokenizer.eos)  # not those of a trunk's LM
        self.rate, self.longest = features.sample_rate, LONGEST_SECONDS
        self.shortest = features.length + (self.encoder.stride - 1) * features.shift

    @property
    def state_seconds(self) -> float:
        """Seconds between encoder states."""
        return self.encoder.stride * self.features.shift / self.rate

    @classmethod
    def load(cls, folder: Path, config: SpeechLMSettings, features: FbankConfig | None) -> "SpeechLM":
        """Load a folder; CheckpointError if its weights cannot be read or do not fit the configuration."""
        model = cls(config, Tokenizer.load(folder / "tokenizer.model"), features or FbankConfig())
        load_state(model, unpack(read_weights(folder / "model.safetensors")), folder / "model.safetensors", adopt=True)
        model.eval()
        return model

    def save(self, folder: Path, storage: Storage) -> None:
        """Write weights and tokenizer."""
        save_file(pack(self.state_dict(), storage), folder / "model.safetensors", {"format": "pt"})
        self.tokenizer.save(folder / "tokenizer.model")

    def listen(self, samples: Tensor, language: str = "", task: str = "", draft: SpeechModel | None = None) -> Request:
        """Return the request: audio entries and the start token, with the logits of the CTC head as a source."""
        self.no_choice(language, task)
        like = self.encoder.mean
        frames, lengths = self._fbank(samples[None], None)
        out = self.encode_audio(frames.to(like), lengths.to(like.device))
        heard = CtcLogits(out.logits[0], self.encoder.blank)
        sources: tuple[Source, ...] = (heard,)
        if draft is not None:
            assert isinstance(draft, EncoderLM)  # by `check_draft`
            sources = (heard, DraftPrompt(draft.trunk, draft.prompt(out)))
        # Without any CTC label the trunk would invent text, since it was always trained with some.
        [labels] = greedy_labels(out.logits, out.lengths)
        empty = isinstance(self.adapter, CtcMerge) and not self.decode(labels).strip()
        return Request(self.prompt(out), self.rules, None, sources=sources, empty=empty)

    def check_draft(self, draft: SpeechModel, source: object) -> None:
        """Raise CheckpointError unless `draft` is a speech LLM with the same vocabulary and encoder; it then shares
        this model's encoder."""
        if not isinstance(draft, SpeechLM):
            raise CheckpointError(
                f"draft model {draft.name}: {draft.title}, expected one trained with encoder_from={source}"
            )
        own, other = self.tokenizer, draft.tokenizer
        if other.sha256 != own.sha256:
            raise CheckpointError(
                f"draft model {draft.name}: another vocabulary, {len(other)} pieces (sha256 {other.sha256[:8]}), "
                f"expected the {len(own)} pieces of {source} (sha256 {own.sha256[:8]}); train it with the base's "
                f"tokenizer"
            )
        draft.to(device=self.encoder.mean.device, dtype=self.encoder.mean.dtype)
        same = draft.config.encoder == self.encoder.config
        if not same or weights_digest(draft.encoder) != weights_digest(self.encoder):
            raise CheckpointError(
                f"draft model {draft.name}: its encoder is not that of {source}; train it with encoder_from={source}, "
                f"stored alike (storage=)"
            )
        draft.encoder = self.encoder
