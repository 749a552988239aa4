"""The optimizers of `torch.optim`, by the same names, for a loop that nobody compiles.

The base class of all of them imports `torch._dynamo`, the compiler behind `torch.compile`, when it
is first used: more than a second, for decorators that tell the compiler to keep off. A subclass
with the decorated methods' own functions does the same arithmetic without that import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer

DECORATED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def find(name: str) -> type | None:
    """`torch.optim.AdamW` without the compiler for "AdamW"; None for what is no optimizer."""
    kind = getattr(torch.optim, name, None)
    known = isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    return _uncompiled(name) if known else None


def __getattr__(name: str) -> type:
    """`optimizers.AdamW`, which a pickle and a configuration name."""
    kind = find(name)
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return kind


@cache
def _uncompiled(name: str) -> type:
    """A subclass of an optimizer with its undecorated methods.

    `inspect.unwrap` removes all decorators. Up to PyTorch 2.13 they switch gradients off, as
    `_step` does, keep the compiler off, and name the step for the profiler; a test compares every
    optimizer with PyTorch's own to the bit.
    """
    kind: Any = getattr(torch.optim, name)
    methods: dict[str, Any] = {m: inspect.unwrap(getattr(kind, m)) for m in DECORATED}
    methods |= {"step": _step(inspect.unwrap(kind.step)), "__module__": __name__}
    return type(name, (kind,), methods)


def _step(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The step with gradients as PyTorch's decorator sets them: off unless it is differentiable."""

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return plain(self, closure)

    return step
