"""What maps the counts of a bin before the recurrent layer: the socket `encoder` of a decoder.

Shapes: N units, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_LATENT = 10.0  # outputs are clipped there in training


class LogSoftplusEncoder(nn.Module):
    """log(softplus(counts)), a linear map and batch normalization: (..., N) -> (..., K).

    The counts are unscaled, 0 or more. The statistics of a training batch are those of all its bins
    together; at test they are the running ones. With `noise_width`, the outputs of training have
    noise whose logarithmic variance a network of that width gives for each bin, as in a variational
    autoencoder without its prior (AEGRU: Wang, Wang and Liu 2024, arXiv 2410.22283).
    """

    def __init__(self, inputs: int, width: int, noise_width: int | None = None):
        super().__init__()
        self.output_size = width
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.BatchNorm1d(width)
        self.noise = None
        if noise_width is not None:
            hidden = nn.Linear(inputs, noise_width)
            self.noise = nn.Sequential(hidden, nn.ReLU(), nn.Linear(noise_width, width))

    def forward(self, counts: Tensor) -> Tensor:
        """Outputs of each bin; drawn at random in training where there is noise."""
        x = F.softplus(counts).log()
        mean = self.norm(self.linear(x).flatten(0, -2)).reshape(*x.shape[:-1], self.output_size)
        if not self.training:
            return mean
        mean = mean.clamp(-MAX_LATENT, MAX_LATENT)
        if self.noise is None:
            return mean
        return mean + torch.randn_like(mean) * torch.exp(0.5 * self.noise(x))
