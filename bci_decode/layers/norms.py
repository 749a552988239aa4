"""Normalizations: modules that are put into the sockets of a recurrent layer.

Shapes: B sequences, T bins, H hidden_size, W width of what is normalized together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.errors import BciDecodeError

MAX_STEPS = 64  # bins that have statistics of their own: the default length of a training window


class Norm(nn.Module):
    """Base class: normalizes vectors of `width` values, then applies a gain and a bias, if any.

    `gain` is the initial value of the learned gains, None for no gain; `bias` says whether a
    learned bias is added, which starts at 0.

    The contract with a layer is `forward(a, step)`: a (..., B, W) gives a tensor of its shape;
    `step` is the number of bins that the sequences had before this one. A norm whose values depend
    on it sets `per_step` and then gets one bin at a time; any other may get many, (T, B, W).
    Any module that keeps this contract can be put into a socket.
    """

    per_step = False
    on_weights = False
    gain: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, width: int, eps: float = 1e-5, gain: float | None = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.width, self.eps, self.initial_gain = width, eps, gain
        self.register_parameter("gain", None if gain is None else nn.Parameter(torch.ones(width)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(width)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the gains to their initial value and the biases to 0."""
        if self.gain is not None and self.initial_gain is not None:
            nn.init.constant_(self.gain, self.initial_gain)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        raise NotImplementedError

    def scaled(self, a: Tensor) -> Tensor:
        """Apply gain and bias to a (..., W)."""
        a = a if self.gain is None else a * self.gain
        return a if self.bias is None else a + self.bias

    def extra_repr(self) -> str:
        gain = None if self.gain is None else self.initial_gain
        return f"{self.width}, eps={self.eps}, gain={gain}, bias={self.bias is not None}"


class NoNorm(Norm):
    """Leaves an empty socket's values as they are."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 0.0, None, False)

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        return a


class LayerNorm(Norm):
    """Layer normalization (Ba, Kiros and Hinton 2016): (a - mean) / sqrt(variance + eps).

    Mean and variance are those of the W values of one bin of one sequence.
    """

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        return F.layer_norm(a, (self.width,), self.gain, self.bias, self.eps)


class RMSNorm(Norm):
    """Root mean square normalization (Zhang and Sennrich 2019): a / sqrt(mean(a^2) + eps).

    The paper has a gain and no bias.
    """

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        y = F.rms_norm(a, (self.width,), self.gain, self.eps)
        return y if self.bias is None else y + self.bias


class AdaNorm(Norm):
    """Adaptive normalization (Xu et al. 2019): y = C (1 - k x) x with x = LN(a).

    The factor C (1 - k x) is a constant for the gradient, and C is not learned: it is `gain`, or 1
    without one. The paper has k = 0.1, C of 1 and 2, and no bias.
    """

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        gain: float | None = 1.0,
        bias: bool = True,
        k: float = 0.1,
    ) -> None:
        super().__init__(width, eps, None, bias)
        self.initial_gain, self.factor, self.k = gain, 1.0 if gain is None else gain, k

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        x = F.layer_norm(a, (self.width,), None, None, self.eps)
        return self.scaled((self.factor * (1 - self.k * x)).detach() * x)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}, C={self.factor}, k={self.k}"


SHARED_BINS = 64  # of a window, over which shared statistics spread their momentum


class BatchNorm(Norm):
    """Batch normalization inside a recurrence (Cooijmans et al. 2017, equations 7 to 10).

    Training normalizes each of the W values by its mean and variance over all leading dimensions,
    and averages both: running = (1 - momentum) running + momentum new, with the unbiased variance,
    as in `torch.nn.BatchNorm1d`. So it mixes sequences, and all bins of a window where it gets them
    together. Evaluation uses the running statistics: it depends on no other sequence or bin.

    Each of the first `steps` bins has running statistics of its own, because the distribution of a
    state that starts at zero changes over the first bins; 1 shares them over all bins, and their
    momentum is then shared out over the bins too, where they come one by one. Later bins
    use the last ones. So do, in evaluation, bins that no training sequence reached: a sequence
    longer than those in training keeps the statistics of the last bin that training saw.

    A single vector has no variance. In training it is normalized by the running statistics, which
    stay as they are, and refused before a larger batch has set them.
    """

    mean: Tensor
    variance: Tensor
    last: Tensor

    def __init__(
        self,
        width: int,
        eps: float = 1e-5,
        gain: float | None = 1.0,
        bias: bool = True,
        steps: int = MAX_STEPS,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(width, eps, gain, bias)
        self.steps, self.momentum, self.per_step = steps, momentum, steps > 1
        self.register_buffer("mean", torch.zeros(steps, width))
        self.register_buffer("variance", torch.ones(steps, width))
        self.register_buffer("last", torch.tensor(-1))  # the last row that training has set

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "last" in self._buffers:
            self.mean.zero_()
            self.variance.fill_(1)
            self.last.fill_(-1)

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        return self.by_batch(a, step, self.gain, self.bias)

    def by_batch(self, a: Tensor, step: int, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """Batch normalization of a, and the update of the running statistics in training."""
        rows = a.reshape(-1, self.width)
        row, last = min(step, self.steps - 1), int(self.last)
        training = self.training and len(rows) > 1
        if training and row > last:
            self.last.fill_(row)
        elif not training:
            if self.training and last < 0:
                raise BciDecodeError(
                    "batch normalization has no variance in a training batch of one sequence",
                    field="model.recurrent.norm",
                    remedy="choose a trainer.batch_size of 2 or more, or another norm",
                )
            row = min(row, max(last, 0))
        running = self.mean[row], self.variance[row]
        bin_by_bin = a.dim() == 2 and not self.per_step
        rate = self.momentum / SHARED_BINS if bin_by_bin else self.momentum
        y = F.batch_norm(rows, *running, gain, bias, training, rate, self.eps)
        return y.view(a.shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, steps={self.steps}, momentum={self.momentum}"


class BatchLayerNorm(BatchNorm):
    """Batch layer normalization (Ziaee and Cano 2022).

        y = (LN(a) / m + (1 - 1 / m) BN(a)) / sqrt(W)

    m is the number of sequences of the batch; in evaluation, of the largest batch of the training,
    with the running statistics of BN. On one sequence it is LN, so it can train on batches of one.
    The division by sqrt(W) is the paper's; a gain of sqrt(W) takes it back. The paper's statistics
    of BN are per step and end with the training sequences; here one step is the default. The 1e-4
    that its code subtracts from both shares are left out.
    """

    sequences: Tensor

    def __init__(
        self,
        width: int,
        eps: float = 1e-3,
        gain: float | None = 1.0,
        bias: bool = True,
        steps: int = 1,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(width, eps, gain, bias, steps, momentum)
        self.register_buffer("sequences", torch.tensor(1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if "sequences" in self._buffers:
            self.sequences.fill_(1)

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        sequences = a.shape[-2] if self.training else int(self.sequences)
        if sequences > int(self.sequences):
            self.sequences.fill_(sequences)
        y = F.layer_norm(a, (self.width,), None, None, self.eps)
        if sequences > 1:
            y = torch.lerp(self.by_batch(a, step, None, None), y, 1 / sequences)
        return self.scaled(y / self.width**0.5)


class WeightNorm(Norm):
    """Weight normalization (Salimans and Kingma 2016): each row w of a matrix is g v / |v|.

    It acts on the weights (W, .) that make W pre-activations, not on these. `gain` is the initial
    value of the lengths g; without one, all rows have length 1. There is neither eps nor bias: the
    linear map has one.
    """

    on_weights = True

    def __init__(
        self, width: int, eps: float = 0.0, gain: float | None = 1.0, bias: bool = False
    ) -> None:
        super().__init__(width, 0.0, gain, False)

    def forward(self, a: Tensor, step: int = 0) -> Tensor:
        rows = a / torch.linalg.vector_norm(a, dim=1, keepdim=True)
        return rows if self.gain is None else self.gain[:, None] * rows


class HistoryNorm(nn.Module):
    """LayerNorm over the bins and columns of a window together, without gain or bias.

    (B, T, H) -> (B, T, H), as in the source study. Each output depends on every bin of its window,
    so only the last one is causal.
    """

    causal = False

    def forward(self, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-2:])


NORMS: dict[str, Callable[..., Norm]] = {
    "none": lambda width, **_: NoNorm(width),
    "layer": LayerNorm,
    "rms": RMSNorm,
    "batch_per_step": BatchNorm,
    "batch_shared": partial(BatchNorm, steps=1),
    "batch_layer": BatchLayerNorm,
    "ada": AdaNorm,
    "weight": WeightNorm,
}
