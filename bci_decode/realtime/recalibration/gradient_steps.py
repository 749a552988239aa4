"""Improve the read-in and the read-out of a decoder by some steps of the gradient.

Shapes: B windows, L bins of a window, N units.
"""

from __future__ import annotations

import math

import torch

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
    model: TrainedDecoder, data: Dataset, names: list[str], steps: int, seed: int
) -> None:
    """Improve the weights of these names and the heads by `steps` of Adam.

    All other weights stay, and so do running statistics.

    The learning rate rises, then falls to 0 along a cosine. Noise on the counts, by bin and by
    window, keeps the many new weights from learning few bins by heart.
    """
    windows = TrainingWindows(data, model.device)
    train = data.parts["train"]
    recorded = inside(train.segments, len(train))
    counts = train.counts if recorded.all() else train.counts[recorded]
    size = torch.as_tensor(counts.std(axis=0))
    weights = dict(model.named_parameters())
    heads = {id(p) for member in model.members for p in member.head.parameters()}
    learned = [p for name, p in weights.items() if name in names or id(p) in heads]
    for parameter in weights.values():
        parameter.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    optimizer = optimizers.find("Adam")(learned, lr=LEARNING_RATE)  # type: ignore[misc]
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for module in model.modules():
        if any(True for _ in module.buffers(recurse=False)):
            module.training = False  # running statistics are a part of the core, which stays
    step = 0
    while step < steps:
        for bins in windows.order(True, generator).split(BATCH)[: steps - step]:
            rate = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP)
            rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = rate
            seen = windows.counts[bins]  # (B, L, N)
            seen = seen + NOISE * size * torch.randn_like(seen)
            seen += OFFSET * size * torch.randn_like(seen[:, :1])
            outputs = [one(seen, first_output=windows.first_output)[0] for one in model.members]
            loss = sum(windows.loss(output, windows.target_of(bins)) for output in outputs)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[union-attr]
            torch.nn.utils.clip_grad_norm_(learned, CLIP_NORM)
            optimizer.step()
            step += 1
    for parameter in weights.values():
        parameter.requires_grad_(True)
    model.eval()
