"""The clock that measures decoding times."""

import time

import torch


def clock(device: torch.device) -> float:
    """Seconds of `time.perf_counter`, read after `device` has finished all queued work.

    GPU kernels run after the call that launches them has returned, so a time without this wait would miss them.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
