"""The one clock of decoding times."""

import time

import torch


def clock(device: torch.device) -> float:
    """Seconds (of `time.perf_counter`), read when `device` has finished the work that it was given.

    Kernels of a GPU run after the call that starts them has returned, so a time without this wait would miss them.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
