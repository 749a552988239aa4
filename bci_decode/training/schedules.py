"""Schedules of the learning rate that follow the optimizer's steps, not the epochs."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """A linear rise over `warmup` epochs, then half a cosine down to 0 at the end of `epochs`.

    The trainer calls `step` after each step of the optimizer, and `set_steps_per_epoch` before the
    first one. Source: Loshchilov and Hutter 2017 (SGDR), without restarts.
    """

    per_step = True

    def __init__(self, optimizer: Optimizer, epochs: int, warmup: float = 0.0):
        if not 0 <= warmup < epochs:
            raise ValueError(f"warmup is {warmup} of {epochs} epochs, choose 0 or more, below all")
        self.epochs, self.warmup, self.steps_per_epoch = epochs, warmup, 1
        super().__init__(optimizer, self.factor)

    def set_steps_per_epoch(self, steps: int) -> None:
        """Say how many steps make an epoch, before the first of them."""
        self.steps_per_epoch = steps
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * self.factor(self.last_epoch)

    def factor(self, step: int) -> float:
        """The share of the optimizer's learning rate at a step, counted from 0."""
        rising = self.warmup * self.steps_per_epoch
        if step < rising:
            return (step + 1) / (rising + 1)
        share = (step - rising) / max(self.epochs * self.steps_per_epoch - rising, 1)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
