"""The same result again on a GPU: PyTorch's settings for it, kept to the training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch.backends import cudnn


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Choose deterministic algorithms on a GPU inside; on a CPU nothing changes.

    An operation that has none warns, so that a model of one's own still trains.
    """
    if device.type == "cpu":
        yield
        return
    # cuBLAS reads this at its first product; cuDNN's recurrent layers need it too
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fills: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), fills.fill_uninitialized_memory
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    fills.fill_uninitialized_memory = False  # costs a pass, and all of it is written
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        fills.fill_uninitialized_memory = before[1]
        cudnn.deterministic, cudnn.benchmark = flags
