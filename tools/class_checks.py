"""Whether a trunk over a small model decodes as transformers' own `generate`, and draws by the model's own law."""

from collections.abc import Sequence
from typing import Any

import torch
from small_models import BOS, EOS, VOCAB
from torch import Tensor
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.noise import TARGET, Noise
from speechmtp.decoding.runner import Runner
from speechmtp.decoding.sampling import RowSampling, SamplingConfig
from speechmtp.decoding.strategies import parse_strategy
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.table import build_heads
from speechmtp.models.lean_model import transformers_model
from speechmtp.models.seq2seq import Seq2SeqTrunk
from speechmtp.models.trunk import Trunk
from speechmtp.types import Prompt, Reference, Request, TokenRules

# Every eighth text is decoded alone by one of these, every text twice as a row of a batch of those.
ALONE = ("ar", "verify:depth=3", "lookup:depth=3")
TOGETHER = ("lookup:depth=3", "ar", "oracle:depth=3", "verify:depth=3")


class Disagreement(Exception):
    """A text or a law of ours that is not the model's own."""


def checked(trunk: Trunk, cases: int, draws: int, new: int = 10) -> dict[str, Any]:
    """Compare `cases` greedy texts of `new` tokens and the law of the first drawn token, and return counts;
    Disagreement for any difference.

    Texts that would go past the model's last position end there, where `generate` would raise an error.
    """
    heads = build_heads(LatentHeadsConfig(3, taps=(1,)), trunk.shape)
    torch.manual_seed(1)
    for weight in heads.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    heads.to(trunk.unembedding().weight.dtype).eval()
    runner = Runner(trunk, {"heads": heads})
    prompts = [[BOS, *one[1:]] if isinstance(trunk, Seq2SeqTrunk) else one for one in _prompts(cases)]
    truths = [text for group in _groups(prompts) for text in _generated(trunk, group, new)]
    prompts = [prompt for group in _groups(prompts) for prompt in group]
    requests = [_request(trunk, one, text, new) for one, text in zip(prompts, truths)]
    accepted = 0
    for turn, (request, text) in enumerate(zip(requests[::8], truths[::8])):
        accepted += _compared(runner, [request], ALONE[turn % len(ALONE) :][:1], [text])
    size = len(TOGETHER)
    for turn in range(2):
        names = [*TOGETHER[turn:], *TOGETHER[:turn]]
        for first in range(0, len(requests), size):
            accepted += _compared(runner, requests[first : first + size], names, truths[first : first + size])
    apart = _law(runner, prompts[0], requests[0], draws)
    distinct = sum(len(set(text)) for text in truths) / sum(map(len, truths))
    return {"cases": len(truths), "accepted": accepted, "distinct": round(distinct, 2), "apart": apart}


def _compared(runner: Runner, requests: Sequence[Request], names: Sequence[str], truths: Sequence[list[int]]) -> int:
    """Compare a batch, a strategy a row, with the truth; return the number of accepted drafted tokens."""
    texts, traces = runner.run(requests, [parse_strategy(name) for name, _ in zip(names, requests)])
    for name, said, text in zip(names, texts, truths):
        if list(said) != list(text):
            raise Disagreement(f"{name} in a batch of {len(requests)} says {list(said)}, generate {list(text)}")
    return sum(trace.num_accepted_tokens for trace in traces)


def _prompts(cases: int) -> list[list[int]]:
    rng = torch.Generator().manual_seed(7)
    plain = range(3, VOCAB - 1)
    found = []
    for case in range(cases):
        size = 2 + case * 5 // cases
        found.append([plain[i] for i in torch.randint(0, len(plain), (size,), generator=rng).tolist()])
    return [one + one[:2] if case % 2 else one for case, one in enumerate(found)]  # lookup finds the repeated ones


def _groups(prompts: Sequence[list[int]]) -> list[list[list[int]]]:
    """Prompts of one length together, which `generate` takes without padding."""
    return [[one for one in prompts if len(one) == size] for size in sorted({len(one) for one in prompts})]


def _generated(trunk: Trunk, prompts: list[list[int]], new: int) -> list[list[int]]:
    ids = torch.tensor(prompts)
    if trunk.last_position is not None:
        new = min(new, trunk.last_position - ids.shape[1] + 2)
    settings: dict[str, Any] = {
        "max_new_tokens": new, "do_sample": False, "eos_token_id": EOS, "pad_token_id": 0, "num_beams": 1,
        "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "forced_eos_token_id": None, "forced_bos_token_id": None,
        "suppress_tokens": None, "begin_suppress_tokens": None,
    }  # fmt: skip
    attention = trunk.model.config._attn_implementation
    if isinstance(trunk, Seq2SeqTrunk):
        memory = _memory(trunk, len(ids))
        model = transformers_model(trunk.model)
        out = GenerationMixin.generate(model, encoder_outputs=_encoded(memory), decoder_input_ids=ids, **settings)
    else:
        out = trunk.model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    assert trunk.model.config._attn_implementation == attention
    texts = out[:, ids.shape[1] :].tolist()
    return [text[: text.index(EOS) + 1] if EOS in text else text for text in texts]


def _memory(trunk: Trunk, rows: int) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    memory = 2 * torch.randn(1, 50, trunk.width, generator=rng, dtype=torch.float64)
    return memory.to(trunk.unembedding().weight.dtype).expand(rows, -1, -1).contiguous()


def _encoded(memory: Tensor) -> Any:
    outputs: Any = BaseModelOutput(last_hidden_state=memory)
    outputs.attention_mask = None  # Moonshine reads it
    return outputs


def _request(trunk: Trunk, ids: list[int], text: list[int], new: int) -> Request:
    given = torch.tensor([ids])
    size = torch.tensor([len(ids)])
    memory = _memory(trunk, 1) if isinstance(trunk, Seq2SeqTrunk) else None
    prompt = Prompt(trunk.embed(given).detach(), torch.arange(len(ids))[None], size, size, memory)
    drafts = [token if i % 5 != 4 else (token + 1) % VOCAB for i, token in enumerate(text)]  # a wrong one now and then
    return Request(prompt, TokenRules((EOS,)), new, tuple(ids), (Reference(tuple(drafts)),))


@torch.no_grad()
def _law(runner: Runner, ids: list[int], request: Request, draws: int) -> float:
    """Return the total variation between the law of the first drawn token and the model's own; Disagreement if it is
    not 0, if a drawn token's recorded probability differs, or if `draws` tokens fit the law with p below 1e-3."""
    trunk = runner.trunk
    if isinstance(trunk, Seq2SeqTrunk):
        model: Any = trunk.model
        own = model(encoder_outputs=_encoded(_memory(trunk, 1)), decoder_input_ids=torch.tensor([ids])).logits[0, -1]
    else:
        own = trunk.model(input_ids=torch.tensor([ids])).logits[0, -1]
    law = own.double().softmax(-1)
    cache = trunk.new_cache(1, request.prompt)
    hidden = trunk.extend(request.prompt.embeddings, request.prompt.positions, None, cache).hidden[:, -1:]
    ours = trunk.unembed(hidden)
    apart = float((ours.double().softmax(-1)[0, 0] - law).abs().sum()) / 2
    if not apart < 1e-5:
        raise Disagreement(f"the first token's law is {apart:.2g} off in total variation")
    drawn = SamplingConfig(temperature=1.0)
    sampling = RowSampling(drawn.processors(), 5)
    strategies = [parse_strategy("verify:depth=3,rule=ratio")]
    said, traces = runner.run([request], strategies, [sampling], Recorded(logprobs=True))
    if abs(traces[0].logprobs[0] - float(law[said[0][0]].log())) > 1e-4:
        raise Disagreement("a drawn token's recorded probability is not the model's")
    if not draws:
        return apart
    # The engine draws a row's token by the noise of its seed and key; here each row has a key of its own.
    noise = Noise(torch.full((draws,), 5), torch.arange(draws))
    tokens = (ours[0] + noise.gumbel(torch.zeros(draws, 1, dtype=torch.long), len(law), TARGET)[:, 0]).argmax(-1)
    p = fit(torch.bincount(tokens, minlength=len(law)), law)
    if not p > 1e-3:
        raise Disagreement(f"{draws} drawn first tokens fit the model's law with p = {p:.2g}")
    return apart


def fit(counts: Tensor, law: Tensor) -> float:
    """Return the p-value of Pearson's chi-square test of counts [V] against a law [V]; rare tokens count as one."""
    expected = law * counts.sum()
    rare = expected < 5
    seen = torch.cat([counts[~rare].double(), counts[rare].sum().double()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    if len(seen) < 2:
        return 1.0
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2, dtype=torch.float64), statistic / 2))
