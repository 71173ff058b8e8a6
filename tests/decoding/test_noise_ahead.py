"""Noise made ahead is the noise itself, bit for bit, in whatever order it is asked for."""

import pytest
import tiny
import torch

from speechmtp.decoding.noise import ACCEPT, DRAFT, FOLLOW, TARGET, Noise, NoiseAhead


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("size", [3, 31])
def test_every_number_is_that_of_the_noise_itself(rows: int, size: int) -> None:
    rng = tiny.generator(rows + size)
    seeds, streams = torch.randint(-(2**62), 2**62, (rows,), generator=rng), torch.arange(rows)
    plain, ahead = Noise(seeds, streams), NoiseAhead(seeds, streams)
    for step in range(60):
        start = torch.randint(0, 5 + 4 * step, (rows, 1), generator=rng)
        places = start + torch.randint(0, 9, (rows, 1 + step % 7), generator=rng)
        purpose = (TARGET, FOLLOW, DRAFT)[step % 3]
        node = torch.arange(-1, places.shape[1] - 1) if purpose == DRAFT else None
        at = start.expand_as(places) if purpose == DRAFT else places
        assert torch.equal(ahead.gumbel(at, size, purpose, node), plain.gumbel(at, size, purpose, node))
        assert torch.equal(ahead.uniform(start[:, 0], ACCEPT), plain.uniform(start[:, 0], ACCEPT))
        if step == 30 and rows > 1:
            kept = torch.tensor([0, 3])
            plain, ahead, rows = plain.select(kept), ahead.select(kept), 2
