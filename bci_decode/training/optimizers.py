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


def __getattr__(name: str) -> Any:
    """`optimizers.AdamW` is `torch.optim.AdamW` without the compiler, and so for all others."""
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _uncompiled(name)


@cache
def _uncompiled(name: str) -> type:
    """A subclass of an optimizer with its undecorated methods.

    `inspect.unwrap` follows `__wrapped__`, which `functools.wraps` sets, and leaves a function that
    has no decorator as it is.
    """
    kind: Any = getattr(torch.optim, name)
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in DECORATED}
    methods |= {"step": _step(inspect.unwrap(kind.step)), "__module__": __name__}
    return type(name, (kind,), methods)


def _step(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The step with gradients as PyTorch's decorator sets them: off unless it is differentiable."""

    def step(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return plain(self, closure)

    return step
