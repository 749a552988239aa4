"""What compiled kernels of the recurrent layers, on a CPU or a GPU, leave to the readable loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def are_plain(weight: Tensor, x: Tensor, h: Tensor | None) -> bool:
    """Whether compiled kernels can take these tensors: of one type and device, not traced or cast.

    Subclasses of Tensor, autocast, torch.compile and torch.jit.trace need PyTorch's operations.
    """
    given = [weight, x] if h is None else [weight, x, h]
    return (
        all(type(a) in (Tensor, nn.Parameter) for a in given)
        and all(a.dtype == weight.dtype and a.device == weight.device for a in given)
        and not torch.is_autocast_enabled(weight.device.type)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def refuse_second_derivatives() -> None:
    """Raise in a backward with create_graph=True: its gradients would silently be constants."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fused layer has no second derivatives: set its use_fused = False, "
            "or drop create_graph"
        )
