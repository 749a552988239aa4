"""Change the counts of training windows by chance, so that a decoder relies on no detail of them.

Shapes: B windows, T bins, N units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bci_decode.config import TrainerConfig
from bci_decode.data.parts import Scaler


class Augmentation:
    """Poisson resampling, white noise and offsets of scaled counts, each if its key is set.

    A count is replaced, with probability `poisson`, by a draw from the Poisson distribution whose
    mean is the count (AEGRU, arXiv 2410.22283); counts below 0, which a scaling cannot give back,
    count as 0. `noise` and `offset` are standard deviations in scaled units: of values that differ
    from bin to bin, and of one value for each window and unit (Willett et al. 2023, speech BCI).
    """

    def __init__(self, config: TrainerConfig, scaler: Scaler, device: torch.device):
        self.poisson, self.noise, self.offset = config.poisson, config.noise, config.offset
        self.mean, self.std = (
            torch.as_tensor(values, dtype=torch.float32, device=device)
            for values in (scaler.mean, scaler.std)
        )

    @property
    def active(self) -> bool:
        return bool(self.poisson or self.noise or self.offset)

    def counts(self, scaled: Tensor) -> Tensor:
        """Spike counts of scaled ones, (..., N)."""
        return (scaled * self.std + self.mean).clamp(min=0)

    def __call__(self, scaled: Tensor) -> Tensor:
        """Augmented (B, T, N)."""
        if self.poisson:
            drawn = (torch.poisson(self.counts(scaled)) - self.mean) / self.std
            chosen = torch.rand_like(scaled) < self.poisson
            scaled = torch.where(chosen, drawn, scaled)
        if self.noise:
            scaled = scaled + self.noise * torch.randn_like(scaled)
        if self.offset:
            scaled = scaled + self.offset * torch.randn_like(scaled[:, :1])
        return scaled
