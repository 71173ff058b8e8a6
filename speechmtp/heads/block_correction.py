"""A small recurrent head after a block that corrects each position by the tokens before it, as in Domino."""

import torch
from torch import Tensor, nn

from speechmtp.heads.decoder_layer import norm_of
from speechmtp.models.shape import TrunkShape


class GruCorrection(nn.Module):
    """s_d = GRU(norm(E x_{t+d}), s_{d-1}), with s_0 computed from the block's output at the anchor; W s_d is added to
    the features of depth d. W starts at zero, so that at first nothing is added."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.norm = norm_of(shape)
        self.first = nn.Linear(shape.width, shape.width)
        self.cell = nn.GRUCell(shape.width, shape.width)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        nn.init.zeros_(self.out.weight)

    def begin(self, anchor: Tensor) -> Tensor:
        """Return s_0 [..., C] of the block's output [..., C] at the anchor."""
        return torch.tanh(self.first(anchor))

    def step(self, embedded: Tensor, before: Tensor) -> Tensor:
        """Return s_d [..., C] of the embeddings [..., C] of x_{t+d} and of s_{d-1} [..., C]."""
        after: Tensor = self.cell(self.norm(embedded).flatten(0, -2), before.flatten(0, -2))
        return after.view(before.shape)

    def teacher(self, embedded: Tensor, anchor: Tensor) -> Tensor:
        """Return W s_1..W s_D [..., D, C] for embeddings [..., D, C] of x_{t+1}..x_{t+D} and `anchor` [..., C]."""
        state, states = self.begin(anchor), []
        for token in embedded.unbind(-2):
            state = self.step(token, state)
            states.append(state)
        added: Tensor = self.out(torch.stack(states, -2))
        return added
