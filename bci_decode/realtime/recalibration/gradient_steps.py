"""Improve some weights of a decoder by some steps of the gradient.

Shapes: B windows, L bins of a window, N units.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from bci_decode.data.dataset import Dataset
from bci_decode.data.segments import inside
from bci_decode.models.decoder import TrainedDecoder
from bci_decode.training import optimizers
from bci_decode.training.windows import TrainingWindows

LEARNING_RATE = 1e-3
WARM_UP = 10  # steps
BATCH = 16  # windows
NOISE, OFFSET = 0.5, 0.2  # SDs, of a unit's counts, of what differs by bin and by window
CLIP_NORM = 1.0


def take_steps(
    model: TrainedDecoder,
    data: Dataset,
    learned: list[nn.Parameter],
    steps: int,
    seed: int,
    rate: float = LEARNING_RATE,
    anchor: float = 0.0,
) -> None:
    """Improve the `learned` weights by `steps` of Adam.

    All other weights stay, and so do running statistics.

    The learning rate rises to `rate`, then falls to 0 along a cosine. Noise on the counts, by bin
    and by window, keeps the many new weights from learning few bins by heart. `anchor` is what the
    loss, in the target's scaled units, gets for a change of the weights with a norm of 1.
    """
    windows = TrainingWindows(data, model.device)
    train = data.parts["train"]
    recorded = inside(train.segments, len(train))
    counts = train.counts if recorded.all() else train.counts[recorded]
    size = torch.as_tensor(counts.std(axis=0))
    weights = list(model.parameters())
    for parameter in weights:
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    initial = [parameter.detach().clone() for parameter in learned]
    optimizer = optimizers.find("Adam")(learned, lr=rate)  # type: ignore[misc]
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for module in model.modules():
        if any(True for _ in module.buffers(recurse=False)):
            module.training = False  # running statistics are a part of the core, which stays
    step = 0
    while step < steps:
        for bins in windows.order(True, generator).split(BATCH)[: steps - step]:
            slowed = rate * min(1.0, (step + 1) / WARM_UP)
            slowed *= 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = slowed
            seen = windows.counts[bins]  # (B, L, N)
            seen = seen + NOISE * size * torch.randn_like(seen)
            seen += OFFSET * size * torch.randn_like(seen[:, :1])
            outputs = [one(seen, first_output=windows.first_output)[0] for one in model.members]
            loss = sum(windows.loss(output, windows.target_of(bins)) for output in outputs)
            if anchor:
                pairs = zip(learned, initial, strict=True)
                changes = [(now - then).square().sum() for now, then in pairs]
                loss = loss + anchor * torch.stack(changes).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            torch.nn.utils.clip_grad_norm_(learned, CLIP_NORM)
            optimizer.step()
            step += 1
    for parameter in weights:
        parameter.requires_grad_(True)
    model.eval()
