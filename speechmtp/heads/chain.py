"""Chained heads: depth d reads the token before the one it predicts, and the state of depth d - 1.

z^d = Layer_d(M_d [norm(E x_{t+d}); norm(z^{d-1})]), logits = U norm(z^d), z^0 the trunk's state before its final
norm. DeepSeek-V3 (arXiv 2412.19437, §2.2) and VITA-Audio (2505.03739) have D layers of their own, FastMTP
(2509.18362) and EAGLE (2401.15077) use one layer for all depths (`shared`).

Attention is the same in training and decoding. An entry of depth d is in slot j = t + d - 1 and reads the token
x_{j+1}. `roll`: depth d sees the slots of depth d up to its own (DeepSeek, FastMTP), so the last d - 1 slots are drafts
and are recomputed each time. `ttt` (training-time test, EAGLE-3, 2503.01840; one shared layer): a draft sees the
committed slots of depth 1, which have true trunk states, and its own chain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from speechmtp.ancestors import ancestors_by_products
from speechmtp.errors import ConfigError
from speechmtp.heads.chain_parts import ChainModule, ChainState, attend_with_chain
from speechmtp.heads.contract import Ahead, FamilyConfig, HeadSet, TrainBatch, TrunkFace, Unembed
from speechmtp.heads.decoder_layer import Memory
from speechmtp.heads.layered import Fresh, at, take_fresh
from speechmtp.kernels.cpu.chain import Drawn, NativeChain
from speechmtp.kernels.cpu.decoder import fits, slots_of
from speechmtp.models.cache import RaggedCache, RaggedLayer
from speechmtp.models.masks import causal_mask, ragged_mask
from speechmtp.models.rotary import rotary
from speechmtp.models.shape import TrunkShape
from speechmtp.types import States


@dataclass(frozen=True)
class ChainHeadsConfig(FamilyConfig):
    """`layers`: one for each depth, or one shared by all. `order` is the order of embedding and hidden state in the
    joined input, as in the checkpoint. `checkpoint` recomputes each depth in the backward pass to save memory."""

    kind: Literal["chain"] = "chain"
    layers: Literal["own", "shared"] = "shared"
    attention: Literal["roll", "ttt"] = "roll"
    order: Literal["embedding_first", "hidden_first"] = "embedding_first"
    checkpoint: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention == "ttt" and self.layers == "own":
            raise ConfigError("heads: attention ttt needs layers: shared, since drafts see the keys of depth 1")


class ChainHeads(HeadSet):
    """Heads whose depths are computed one after another."""

    reads_raw = True

    def __init__(self, config: ChainHeadsConfig, shape: TrunkShape) -> None:
        super().__init__(config, shape)
        count = min(1, config.depth) if config.layers == "shared" else config.depth
        first = config.order == "embedding_first"
        self.modules_ = nn.ModuleList(ChainModule(first, shape) for _ in range(count))
        self.rolls = config.attention == "roll"

    def at_depth(self, d: int) -> ChainModule:
        """Return the module of depth d."""
        module = self.modules_[min(d, len(self.modules_)) - 1]
        assert isinstance(module, ChainModule)
        return module

    def start_from(self, trunk: TrunkFace) -> None:
        """Initialise every depth so that it passes the trunk's state on."""
        for d in range(len(self.modules_)):
            self.at_depth(d + 1).start_from(trunk)

    def logits(self, features: Tensor, d: int, unembed: Unembed) -> Tensor:
        """Return the logits [..., V] of depth d."""
        return unembed(features)

    # Training.

    def train_depths(self, batch: TrainBatch) -> Iterator[Tensor]:
        """Compute one depth after another; with `checkpoint` each is recomputed in the backward pass."""
        if not self.depth:
            return
        memory = [self.at_depth(d + 1).layer.remember(batch.memory, batch.memory_lengths)
                  for d in range(len(self.modules_))]  # fmt: skip
        hidden = self.fused(batch.states)
        yield from (self._train_roll if self.rolls else self._train_ttt)(batch, hidden, memory)

    def _train_roll(self, batch: TrainBatch, z: Tensor, memory: list[Memory | None]) -> Iterator[Tensor]:
        nexts = batch.ahead(batch.inputs, 1)
        turn = rotary(batch.positions, self.shape, z.dtype)
        for d in range(1, self.depth + 1):
            module = self.at_depth(d)
            seen = causal_mask(batch.segments, d - 1)

            def run(z: Tensor, module: ChainModule = module, seen: Tensor = seen, d: int = d) -> Tensor:
                x = module.join(nexts, z if d == 1 else batch.ahead(z, -1))
                return module.layer(x, turn, seen, None, memory[min(d, len(memory)) - 1])

            z = self._checkpointed(run, z)
            yield module.norm(batch.at_anchors(batch.ahead(z, d - 1)))

    def _train_ttt(self, batch: TrainBatch, z: Tensor, memory: list[Memory | None]) -> Iterator[Tensor]:
        module, attention = self.at_depth(1), self.at_depth(1).layer.self_attn
        seen = causal_mask(batch.segments)
        turn = rotary(batch.positions, self.shape, z.dtype)
        x = module.join(batch.ahead(batch.inputs, 1), z)
        keys, values = attention.keys_values(module.layer.input_layernorm(x), turn)
        z = batch.at_anchors(module.layer(x, turn, seen, None, memory[0]))
        yield module.norm(z)
        every = torch.arange(batch.positions.shape[1], device=seen.device).expand_as(batch.positions)
        behind = batch.positions_behind(every if batch.anchors is None else batch.anchors, self.depth)
        seen = batch.at_anchors(seen)
        own: list[Tensor] = []  # keys and values in turn
        for d in range(2, self.depth + 1):
            token = batch.at_anchors(batch.ahead(batch.inputs, d))
            turn = rotary(behind[..., d - 2], self.shape, z.dtype)

            def run(
                z: Tensor, *own: Tensor, token: Tensor = token, turn: tuple[Tensor, Tensor] = turn
            ) -> tuple[Tensor, Tensor, Tensor]:
                return self._step(module.join(token, z), turn, keys, values, seen, own, memory[0])

            z, key, value = self._checkpointed(run, z, *own)
            own += [key, value]
            yield module.norm(z)

    def _step(
        self, x: Tensor, turn: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, seen: Tensor,
        own: Sequence[Tensor], memory: Memory | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Compute one drafted level of ttt for inputs [B, A, C]. Queries attend to committed keys [B, H, S, d], masked
        by `seen` [B, A, S], and to their own chain. Return the output and the new keys and values."""
        layer = self.at_depth(1).layer
        normed = layer.input_layernorm(x)
        key, value = layer.self_attn.keys_values(normed, turn)
        chain = [*own, key, value]
        query = layer.self_attn.queries(normed, turn)
        mixed = attend_with_chain(query, keys, values, seen, chain[::2], chain[1::2])
        return layer.finish(x + layer.self_attn.o_proj(mixed), memory), key, value

    def _checkpointed(self, run: Callable[..., Any], *inputs: Tensor) -> Any:
        if self.config.checkpoint and torch.is_grad_enabled():
            return checkpoint(run, *inputs, use_reentrant=False)
        return run(*inputs)

    # Decoding.

    def start(
        self, rows: int, trunk: TrunkFace, depth: int | None = None, memory: Tensor | None = None,
        memory_lengths: Tensor | Sequence[int] | None = None, ahead: Ahead | None = None,
    ) -> ChainState:  # fmt: skip
        """Return a new state, with the cross-attention keys and values if there is a memory."""
        depth = self.depth if depth is None else depth
        layers = depth if self.rolls else min(1, depth)
        cache = RaggedCache(layers, rows, trunk.unembedding().weight.device)
        state = ChainState(trunk.embed, self.narrow(trunk), depth, cache=cache, ahead=ahead)
        own = [self.at_depth(d + 1).layer for d in range(len(self.modules_))]
        state.remember(own, memory, memory_lengths, None if memory is None else self._usable(memory))
        return state

    def advance(
        self, state: ChainState, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Commit the earlier fresh entries and take in these."""
        if state.depth == 0:
            return
        fresh = self._taken(states, inputs, positions, keep, count, counts)
        if state.fresh is not None:
            self._finish(state, inputs[torch.arange(len(keep), device=keep.device), keep[:, 0]])
        state.fresh, state.level = fresh, 0
        state.known, state.draft, state.drafted, state.own = {}, None, None, []

    def _usable(self, values: Tensor) -> NativeChain | None:
        """The native chain, if it computes what the modules would of these values (see `Trunk`)."""
        native = self.native
        return native if native is not None and fits(values) and native.knows() else None

    def _taken(
        self, states: States, inputs: Tensor, positions: Tensor, keep: Tensor, count: Tensor,
        counts: Sequence[int] | None,
    ) -> Fresh:  # fmt: skip
        """`take_fresh`, in one native call where that can be."""
        native = None if states.taps is None else self._usable(states.taps)
        if native is None or states.taps is None or states.taps.dtype != inputs.dtype:
            return take_fresh(self.fused, states, inputs, positions, keep, count, counts)
        known = count.tolist() if counts is None else list(counts)
        taken = max(1, *known)
        hidden, nexts = native.take(states.taps, inputs, keep, taken)
        return Fresh(hidden, nexts, positions.gather(1, keep[:, :taken]), count, known)

    def _finish(self, state: ChainState, following: Tensor) -> None:
        """Write the keys of fresh entries that no draft has written; `following` [B, C] is the entry after them."""
        fresh = state.fresh
        assert fresh is not None
        state.drafted = None
        for d in range(state.level + 1, len(state.cache.layers) + 1):
            self._fresh_level(state, d, following)
        state.cache.commit(fresh.counts)
        for d, z in state.known.items():
            last = at(z, fresh.last)
            old = state.carry.get(d)
            state.carry[d] = last if old is None else last.where((fresh.count > 0)[:, None], old)

    def _fresh_level(self, state: ChainState, d: int, following: Tensor | None) -> Tensor:
        """Return z^d [B, A + drafted, C] of the fresh slots and, in roll, of the drafted slots of all nodes."""
        fresh, module = state.fresh, self.at_depth(d)
        assert fresh is not None
        rows, size, _ = fresh.hidden.shape
        if following is not None:
            fresh.nexts = fresh.nexts.clone()
            fresh.nexts[torch.arange(rows, device=fresh.nexts.device), fresh.last] = following
        below = fresh.hidden
        if d > 1:  # the slot of depth d reads z^{d-1} from the slot before
            before = state.known[d - 1]
            first = state.carry.get(d - 1)
            below = torch.cat([torch.zeros_like(before[:, :1]) if first is None else first[:, None], before[:, :-1]], 1)
        x, positions, ancestors = module.join(fresh.nexts, below), fresh.positions, None
        if state.drafted is not None and d > 1:
            x, positions, ancestors = self._lay_out(state, d, x)
        turn = rotary(positions, self.shape, x.dtype)
        state.cache.begin(x.shape[1])
        seen = ragged_mask(state.cache, x.shape[1], ancestors)
        if d > 1:  # the first slots have no state of depth d - 1 to read
            seen = seen & (torch.arange(state.cache.width, device=x.device) >= d - 1)
        z = module.layer(x, turn, seen, state.store(d - 1), state.memory[min(d, len(state.memory)) - 1])
        state.known[d] = z[:, :size]
        return z

    def _lay_out(self, state: ChainState, d: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return inputs, positions and ancestors, with each node's d - 1 drafted slots after the row's fresh ones."""
        fresh, drafted, draft = state.fresh, state.drafted, state.draft
        assert fresh is not None and drafted is not None and draft is not None
        rows, nodes, steps, width = drafted.shape
        size = x.shape[1]
        behind = self.at_depth(d).join(drafted, draft).reshape(rows, nodes * steps, width)
        slots = fresh.count[:, None] + torch.arange(nodes * steps, device=x.device)
        step = torch.arange(steps, device=x.device).repeat(nodes)
        inputs = x.new_zeros(rows, size + nodes * steps, width)
        inputs[:, :size] = x
        inputs.scatter_(1, slots[..., None].expand(-1, -1, width), behind)
        positions = fresh.positions.new_zeros(rows, size + nodes * steps)
        positions[:, :size] = fresh.positions
        positions.scatter_(1, slots, state.places_ahead(steps)[:, step])
        if nodes == 1:
            return inputs, positions, None
        parent = torch.arange(-1, size + nodes * steps - 1, device=x.device).repeat(rows, 1)
        above = torch.where(step == 0, fresh.count[:, None] - 1, slots - 1)
        # Slot d - 1 is the first valid one of depth d; after a shorter prompt it is a draft without a parent.
        first = (state.cache.lengths + fresh.count)[:, None] + step == d - 1
        parent.scatter_(1, slots, above.masked_fill(first, -1))
        return inputs, positions, ancestors_by_products(parent)

    def draft_chain(
        self, state: ChainState, base: Tensor, depth: int, theta: float | None = None, product: bool = False,
        drawn: Drawn | None = None,
    ) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """See `HeadSet.draft_chain`; only with attention `ttt` natively. Each level's keys stand behind the fresh
        ones, so that a level sees what `_test` lets it see."""
        fresh, cache = state.fresh, state.cache
        native = None if fresh is None or state.level else self._usable(fresh.hidden)
        if native is None or fresh is None:
            return None
        cache.begin(fresh.hidden.shape[1] + depth)
        slots = slots_of(cache.room(fresh.hidden, native.heads, native.dim), cache.first)
        audio = state.audio
        memory = None if audio is None else slots_of(audio.states, 0)
        lengths = None if audio is None else audio.lengths
        state.level = depth
        return native.draft(
            fresh.hidden, fresh.nexts, fresh.positions, fresh.count, cache.lengths, cache.longest, slots, memory,
            lengths, 0 if audio is None else max(audio.known), base, state.places_ahead(depth), theta, product,
            state.hints_ahead(depth), drawn,
        )  # fmt: skip

    def expand(self, state: ChainState, d: int, tokens: Tensor, parent: Tensor, given: Tensor | None = None) -> Tensor:
        """Return features [B, P, C] of level d; its keys are provisional."""
        assert state.fresh is not None
        state.level = max(state.level, d)
        embedded = state.embedded(tokens, d).to(state.fresh.hidden.dtype)
        if d == 1:
            z = at(self._fresh_level(state, 1, embedded[:, 0]), state.fresh.last)[:, None]
            state.draft, state.drafted, state.own = z[:, :, None], None, []
            return self.at_depth(1).norm(z).expand(-1, tokens.shape[1], -1)
        z = self._roll(state, d, embedded, parent) if self.rolls else self._test(state, d, embedded, parent)
        return self.at_depth(d).norm(z)

    def _roll(self, state: ChainState, d: int, embedded: Tensor, parent: Tensor) -> Tensor:
        fresh, draft = state.fresh, state.draft
        assert fresh is not None and draft is not None
        rows, nodes, width = embedded.shape
        index = torch.arange(rows, device=embedded.device)[:, None]
        path = embedded[:, :, None]
        if d > 2:
            assert state.drafted is not None
            path = torch.cat([state.drafted[index, parent], path], 2)
            draft = draft[index, parent]
        else:
            draft = draft.expand(-1, nodes, -1, -1)
        state.drafted, state.draft = path, draft
        z = self._fresh_level(state, d, None)
        slots = fresh.count[:, None] + torch.arange(nodes * (d - 1), device=z.device)
        mine = z[index, slots].view(rows, nodes, d - 1, width)
        # Depth d + 1 reads z^d from the slot before: the last fresh one, then the drafted ones.
        last = at(state.known[d], fresh.last)[:, None, None].expand(-1, nodes, -1, -1)
        state.draft = torch.cat([last, mine], 2)
        return mine[:, :, -1]

    def _test(self, state: ChainState, d: int, embedded: Tensor, parent: Tensor) -> Tensor:
        fresh, draft, cache = state.fresh, state.draft, state.cache
        assert fresh is not None and draft is not None
        rows, nodes, _ = embedded.shape
        index = torch.arange(rows, device=embedded.device)[:, None]
        below = draft[:, :, 0]
        if d == 2:
            below = below.expand(-1, nodes, -1)
        elif below.shape[1] > 1 or nodes > 1:  # a chain's only node is its own parent
            below = below[index, parent]
            pairs = ((k[index, :, parent], v[index, :, parent]) for k, v in state.own)
            state.own = [(k.transpose(1, 2), v.transpose(1, 2)) for k, v in pairs]
        position = state.places_ahead(state.depth)[:, d - 2, None]
        turn = rotary(position.expand(-1, nodes), self.shape, embedded.dtype)
        layer = cache.layers[0]
        assert isinstance(layer, RaggedLayer)
        seen = (torch.arange(cache.width, device=embedded.device) < (cache.lengths + fresh.count)[:, None])[:, None]
        keys, values = layer.view()
        own = [part for pair in state.own for part in pair]
        x = self.at_depth(d).join(embedded, below)
        z, key, value = self._step(x, turn, keys, values, seen, own, state.memory[0])
        state.own.append((key, value))
        state.draft = z[:, :, None]
        return z
