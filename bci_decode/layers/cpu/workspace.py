"""Memory that the recurrence writes to, used again: a fresh page costs as much as the arithmetic done on it."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from typing import TypeVar

import torch
from torch import Tensor

DIRECT = 2**12  # sequences * hidden_size from which views of what is kept cost less than to copy it there
CHUNK = 2**17  # bins * sequences * hidden_size worked on at once: a few MB, that stay in cache
LONGEST = 256  # bins of a chunk: short sequences are many small steps, and their views take time to make
KEPT_WORKSPACES = 8  # of a thread
KEPT_SLABS = 4  # free ones at most, the last used: two layers' of a step, and those of a graph that is not gone yet
WORTHWHILE = 2**23  # bytes of a slab; the C library keeps smaller pieces at hand itself
_free: dict[int, Tensor] = {}


def lease(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Uninitialised tensors of these shapes, of like's dtype, on the CPU; large ones are together one slab of memory.

    The slab is handed on when the last tensor that looks at it is gone, whoever holds it: two graphs at once,
    `retain_graph` and hooks on saved tensors need no care. Threads may share slabs: a dictionary's pop is atomic.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) * like.element_size() < WORTHWHILE:
        return [like.new_empty(shape) for shape in shapes]
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // 16) * 16)  # each starts at a cache line
    whole = _slab(places[-1] * like.element_size()).view(like.dtype)
    return [whole[at : at + size].view(shape) for at, size, shape in zip(places, sizes, shapes, strict=False)]


def _slab(size: int) -> Tensor:
    """`size` bytes or more."""
    with torch.inference_mode(False):  # else it could not be written to outside of it later
        slab = _fitting(size)
        if slab is None:
            slab = torch.empty(-(-size // WORTHWHILE) * WORTHWHILE, dtype=torch.uint8, device="cpu")
        window = slab.numpy()
        weakref.finalize(window, _take_back, slab).atexit = False
        return torch.from_numpy(window)  # its storage keeps `window` alive, and nothing else does


def _fitting(size: int) -> Tensor | None:
    """A free slab that is large enough and not twice too large, the one used last."""
    for key, slab in reversed(list(_free.items())):
        if size <= slab.numel() <= 2 * size + WORTHWHILE and _free.pop(key, None) is not None:
            return slab
    return None


def _take_back(slab: Tensor) -> None:
    _free[id(slab)] = slab
    while len(_free) > KEPT_SLABS:
        _free.pop(next(iter(list(_free)), None), None)  # type: ignore[arg-type]


class ForwardWork:
    """Buffers of a chunk of `length` bins and, made once, their views bin by bin."""

    def __init__(self, length: int, sequences: int, hidden: int, dtype: torch.dtype):
        self.length = length
        self.h = torch.empty(length + 1, sequences, hidden, dtype=dtype, device="cpu")
        self.a, self.u = (torch.empty(length, sequences, 3 * hidden, dtype=dtype, device="cpu") for _ in range(2))
        self.zr = torch.empty(length, sequences, 2 * hidden, dtype=dtype, device="cpu")
        self.c = torch.empty(length, sequences, hidden, dtype=dtype, device="cpu")
        self.rs = torch.empty(length, sequences, 3, dtype=dtype, device="cpu")
        self.squares = torch.empty(sequences, 3, dtype=dtype, device="cpu")
        self.m = torch.empty(sequences, hidden, dtype=dtype, device="cpu")
        self.steps = forward_steps(self.h, self.a, self.rs, self.u, self.zr, self.c)


def forward_steps(h: Tensor, a: Tensor, rs: Tensor, u: Tensor, zr: Tensor, c: Tensor) -> list[tuple[Tensor, ...]]:
    """For each bin the views that a step works on: the state before, a (B, 3 H), the same (B, 3, H), its gates and its
    candidate, rs (B, 3) and (B, 3, 1), u's gates and candidate, both gates together, each alone, the candidate, the
    state after."""
    hidden, gates = c.shape[-1], 2 * c.shape[-1]
    views = (
        h[:-1], a, a.unflatten(2, (3, hidden)), a[..., :gates], a[..., gates:], rs, rs[..., None],
        u[..., :gates], u[..., gates:], zr, zr[..., :hidden], zr[..., hidden:], c, h[1:],
    )  # fmt: skip
    return list(zip(*(view[: len(a)].unbind(0) for view in views), strict=True))


class BackwardWork:
    """The same for the way back; f, da and d are (length, B, 3, H)."""

    def __init__(self, length: int, sequences: int, hidden: int, dtype: torch.dtype):
        self.length = length
        self.dh = torch.empty(length + 1, sequences, hidden, dtype=dtype, device="cpu")
        self.f, self.d, self.da = (
            torch.empty(length, sequences, 3, hidden, dtype=dtype, device="cpu") for _ in range(3)
        )
        self.t, self.stay = (torch.empty(length, sequences, hidden, dtype=dtype, device="cpu") for _ in range(2))
        self.products = torch.empty(sequences, 3, hidden, dtype=dtype, device="cpu")
        self.sums, self.means = (torch.empty(sequences, 3, dtype=dtype, device="cpu") for _ in range(2))
        views = (
            self.da, self.da.view(length, sequences, 3 * hidden), self.dh[1:], self.dh[1:, :, None], self.stay, self.dh[:-1],
        )  # fmt: skip
        self.steps = list(zip(*(view.unbind(0) for view in views), strict=True))


Work = TypeVar("Work", ForwardWork, BackwardWork)
_of_thread = threading.local()  # .kept: the workspaces used last; no other thread sees them


def workspace(kind: type[Work], bins: int, sequences: int, hidden: int, dtype: torch.dtype) -> Work:
    """One for up to `bins` bins, made or used before by this thread; for use within a call, so that calls can share it."""
    length = min(bins, LONGEST, max(1, CHUNK // max(1, sequences * hidden)))
    key = (kind, length, sequences, hidden, dtype)
    kept = _of_thread.__dict__.setdefault("kept", OrderedDict())
    if key not in kept:
        with torch.inference_mode(False):  # else later calls could not write to it
            kept[key] = kind(length, sequences, hidden, dtype)
        if len(kept) > KEPT_WORKSPACES:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
