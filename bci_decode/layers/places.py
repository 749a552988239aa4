"""Where a GRU is normalized: the sockets of each place, and the pre-activations they give.

Shapes: B sequences, T bins, H hidden_size. u is the input side W x + b of the pre-activations, a
the recurrent side U h + c, both with rows z, r, candidate (..., 3 H); z is the share of the NEW
candidate, as in `LayerNormGRU`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Norms = Mapping[str, Any]  # name of a socket: what is in it, called as norms.Norm


class Place:
    """Base class: a plain GRU, whose methods a place overrides where it normalizes.

    `sockets` are their names and widths, in multiples of H. `sides` are the weight matrices ("ih",
    "hh") that a norm of weights can act on. `update_biases` name what adds a constant to the update
    gate, best first: a socket, or a side's bias. `form` names the compiled kernels that compute the
    place where LayerNorms are in the sockets, if there are any.
    """

    sockets: dict[str, int] = {}
    sides: tuple[str, ...] = ()
    update_biases: tuple[str, ...] = ("bias_hh",)
    form: str | None = None
    plain = True  # without norms, or with norms of weights or outputs alone, it is torch.nn.GRU

    def inputs(self, norms: Norms, u: Tensor, step: int) -> Tensor:
        """The input side u (T, B, 3 H), normalized; `step` is that of the first bin, as below."""
        return u

    def pre_activations(
        self, norms: Norms, u: Tensor, a: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """The arguments of sigmoid (update gate) and of tanh, both (B, H), in one bin."""
        split = [2 * u.shape[-1] // 3, u.shape[-1] // 3]
        (gates_u, new_u), (gates_a, new_a) = u.split(split, -1), a.split(split, -1)
        z, r = (gates_u + gates_a).chunk(2, -1)
        return z, new_u + torch.sigmoid(r) * new_a

    def state(self, norms: Norms, h: Tensor, step: int) -> Tensor:
        """The state h (B, H) after a bin, normalized."""
        return h

    def outputs(self, norms: Norms, y: Tensor, step: int) -> Tensor:
        """The outputs (T, B, H), normalized after they were fed back."""
        return y


class Sides(Place):
    """The input side, the recurrent side or both, each by itself: both gates, and the candidate.

    Both: Ba, Kiros and Hinton 2016, supplement.
    """

    def __init__(self, *names: str):
        self.names = names
        self.sockets = {f"{n}_{part}": k for n in names for part, k in PARTS.items()}
        self.sides = tuple(SIDES_OF[name] for name in names)
        others = [f"bias_{side}" for name, side in SIDES_OF.items() if name not in names]
        self.update_biases = (f"{names[-1]}_gates", *others)
        self.form = "apart" if len(names) == 2 else None

    def inputs(self, norms: Norms, u: Tensor, step: int) -> Tensor:
        return self._side(norms, "input", u, step)

    def pre_activations(
        self, norms: Norms, u: Tensor, a: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        return super().pre_activations(norms, u, self._side(norms, "recurrent", a, step), step)

    def _side(self, norms: Norms, name: str, a: Tensor, step: int) -> Tensor:
        if name not in self.names:
            return a
        parts = a.split([2 * a.shape[-1] // 3, a.shape[-1] // 3], -1)
        normed = [
            over_bins(norms[f"{name}_{p}"], v, step) for p, v in zip(PARTS, parts, strict=True)
        ]
        return torch.cat(normed, -1)


class Sum(Place):
    """One norm over all 3 H of the sum of both sides; r multiplies the candidate's whole value."""

    sockets = {"sum": 3}
    update_biases = ("sum",)
    form = "sum"
    plain = False

    def pre_activations(
        self, norms: Norms, u: Tensor, a: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        z, r, candidate = norms["sum"](u + a, step).chunk(3, -1)
        return z, torch.sigmoid(r) * candidate


class SumInTwo(Place):
    """A norm of the gates' sum, and one of the candidate's: W x + r * U h."""

    sockets = {"gates": 2, "candidate": 1}
    update_biases = ("gates",)
    form = "sum2"

    def pre_activations(
        self, norms: Norms, u: Tensor, a: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        split = [2 * u.shape[-1] // 3, u.shape[-1] // 3]
        (gates_u, new_u), (gates_a, new_a) = u.split(split, -1), a.split(split, -1)
        z, r = norms["gates"](gates_u + gates_a, step).chunk(2, -1)
        return z, norms["candidate"](new_u + torch.sigmoid(r) * new_a, step)


class State(Place):
    """h = norm(GRUCell(x, h)): the normalized state is fed back, and is the output (AEGRU)."""

    sockets = {"state": 1}

    def state(self, norms: Norms, h: Tensor, step: int) -> Tensor:
        return norms["state"](h, step)


class Outputs(Place):
    """The outputs alone; what is fed back is not normalized."""

    sockets = {"outputs": 1}

    def outputs(self, norms: Norms, y: Tensor, step: int) -> Tensor:
        return over_bins(norms["outputs"], y, step)


def over_bins(norm: Any, a: Tensor, step: int) -> Tensor:
    """The norm of a (B, W), or of all bins of a (T, B, W), one by one if it depends on the step."""
    if a.dim() == 2 or not getattr(norm, "per_step", False):
        return norm(a, step)
    return torch.stack([norm(bin_, step + number) for number, bin_ in enumerate(a)])


PARTS = {"gates": 2, "candidate": 1}
SIDES_OF = {"input": "ih", "recurrent": "hh"}
PLACES: dict[str, Place] = {
    "input": Sides("input"),
    "recurrent": Sides("recurrent"),
    "apart": Sides("input", "recurrent"),
    "sum": Sum(),
    "sum2": SumInTwo(),
    "state": State(),
    "outputs": Outputs(),
}
