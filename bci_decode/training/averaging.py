"""An exponential moving average of a decoder's weights, which is scored and kept in its place."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """PyTorch's average of the weights, and of running statistics alike.

    average = decay average + (1 - decay) weights, after each step; it begins with the weights after
    the first. Buffers of numbers, the running statistics of batch normalization, must fit the
    averaged weights and not the last ones; other buffers, counters say, are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        before = [buffer.clone() for buffer in self.module.buffers()]
        first = not bool(self.n_averaged)
        super().update_parameters(model)  # copies all buffers
        if first:
            return
        for buffer, old in zip(self.module.buffers(), before, strict=True):
            if buffer.is_floating_point():
                buffer.copy_(torch.lerp(buffer, old, self.decay))
