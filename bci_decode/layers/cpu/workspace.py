"""Reused memory for the fused GRU: touching a fresh page costs as much as the arithmetic on it."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from typing import TypeVar

import torch
from torch import Tensor

MIN_SIZE_FOR_VIEWS = 2**12  # sequences * H from which making views is cheaper than copying
CHUNK_SIZE = 2**17  # bins * sequences * H of a chunk: a few MB, which stay in cache
MAX_CHUNK_BINS = 256  # making the views of many small bins takes time
MAX_WORKSPACES = 8  # per thread
MAX_POOLED_BLOCKS = 4  # free blocks to keep: two layers' and those of one graph that is still alive
MIN_POOLED_BYTES = 2**23  # the C library already reuses smaller blocks
_pool: dict[int, Tensor] = {}


def allocate(like: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Uninitialized CPU tensors of these shapes and like's dtype; large ones share a pooled block.

    The block returns to the pool when the last tensor that views it is deleted, so two graphs at
    once, `retain_graph` and hooks on saved tensors are safe. Threads share the pool: a dictionary's
    pop is atomic.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if sum(sizes) * like.element_size() < MIN_POOLED_BYTES:
        return [like.new_empty(shape) for shape in shapes]
    places = [0]
    for size in sizes:
        places.append(places[-1] + -(-size // 16) * 16)  # align to cache lines
    whole = _pooled_block(places[-1] * like.element_size()).view(like.dtype)
    parts = zip(places, sizes, shapes, strict=False)
    return [whole[at : at + size].view(shape) for at, size, shape in parts]


def _pooled_block(size: int) -> Tensor:
    """A block of `size` bytes or more."""
    with torch.inference_mode(False):  # else it could not be written to outside of inference mode
        block = _find_free_block(size)
        if block is None:
            block = torch.empty(
                -(-size // MIN_POOLED_BYTES) * MIN_POOLED_BYTES, dtype=torch.uint8, device="cpu"
            )
        window = block.numpy()
        weakref.finalize(window, _return_to_pool, block).atexit = False
        return torch.from_numpy(window)  # only its storage keeps `window` alive


def _find_free_block(size: int) -> Tensor | None:
    """The most recently used free block that is large enough and less than twice too large."""
    for key, block in reversed(list(_pool.items())):
        if (
            size <= block.numel() <= 2 * size + MIN_POOLED_BYTES
            and _pool.pop(key, None) is not None
        ):
            return block
    return None


def _return_to_pool(block: Tensor) -> None:
    _pool[id(block)] = block
    while len(_pool) > MAX_POOLED_BLOCKS:
        _pool.pop(next(iter(list(_pool)), None), None)  # type: ignore[arg-type]


class ForwardWork:
    """Buffers of a chunk of `length` bins in the forward, and their views bin by bin."""

    def __init__(self, length: int, sequences: int, hidden: int, dtype: torch.dtype):
        self.length = length
        self.h = torch.empty(length + 1, sequences, hidden, dtype=dtype, device="cpu")
        self.a, self.u = (
            torch.empty(length, sequences, 3 * hidden, dtype=dtype, device="cpu") for _ in range(2)
        )
        self.zr = torch.empty(length, sequences, 2 * hidden, dtype=dtype, device="cpu")
        self.c = torch.empty(length, sequences, hidden, dtype=dtype, device="cpu")
        self.rs = torch.empty(length, sequences, 3, dtype=dtype, device="cpu")
        self.squares = torch.empty(sequences, 3, dtype=dtype, device="cpu")
        self.m = torch.empty(sequences, hidden, dtype=dtype, device="cpu")
        self.steps = forward_steps(self.h, self.a, self.rs, self.u, self.zr, self.c)


def forward_steps(
    h: Tensor, a: Tensor, rs: Tensor, u: Tensor, zr: Tensor, c: Tensor
) -> list[tuple[Tensor, ...]]:
    """The views of each bin, in the order in which the loops unpack them.

    The state before; a as (B, 3 H) and (B, 3, H); a of the gates and of the candidate; rs as (B, 3)
    and (B, 3, 1); u of the gates and of the candidate; both gates, the first, the second; the
    candidate; the state after.
    """
    hidden, gates = c.shape[-1], 2 * c.shape[-1]
    views = (
        h[:-1], a, a.unflatten(2, (3, hidden)), a[..., :gates], a[..., gates:], rs, rs[..., None],
        u[..., :gates], u[..., gates:], zr, zr[..., :hidden], zr[..., hidden:], c, h[1:],
    )  # fmt: skip
    return list(zip(*(view[: len(a)].unbind(0) for view in views), strict=True))


class BackwardWork:
    """The same in the backward; f, da and d are (length, B, 3, H)."""

    def __init__(self, length: int, sequences: int, hidden: int, dtype: torch.dtype):
        self.length = length
        self.dh = torch.empty(length + 1, sequences, hidden, dtype=dtype, device="cpu")
        self.f, self.d, self.da = (
            torch.empty(length, sequences, 3, hidden, dtype=dtype, device="cpu") for _ in range(3)
        )
        self.t, self.stay = (
            torch.empty(length, sequences, hidden, dtype=dtype, device="cpu") for _ in range(2)
        )
        self.products = torch.empty(sequences, 3, hidden, dtype=dtype, device="cpu")
        self.sums, self.means = (
            torch.empty(sequences, 3, dtype=dtype, device="cpu") for _ in range(2)
        )
        views = (
            self.da, self.da.view(length, sequences, 3 * hidden),
            self.dh[1:], self.dh[1:, :, None], self.stay, self.dh[:-1],
        )  # fmt: skip
        self.steps = list(zip(*(view.unbind(0) for view in views), strict=True))


Work = TypeVar("Work", ForwardWork, BackwardWork)
_thread_state = threading.local()  # .kept: the workspaces used last


def workspace(kind: type[Work], bins: int, sequences: int, hidden: int, dtype: torch.dtype) -> Work:
    """This thread's workspace for up to `bins` bins, for use within one call."""
    length = min(bins, MAX_CHUNK_BINS, max(1, CHUNK_SIZE // max(1, sequences * hidden)))
    key = (kind, length, sequences, hidden, dtype)
    kept = _thread_state.__dict__.setdefault("kept", OrderedDict())
    if key not in kept:
        with torch.inference_mode(False):  # else later calls could not write to it
            kept[key] = kind(length, sequences, hidden, dtype)
        if len(kept) > MAX_WORKSPACES:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
