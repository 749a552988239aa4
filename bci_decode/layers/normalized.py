"""A GRU with any normalization at any place.

Shapes: B sequences, T bins, I inputs, H hidden_size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bci_decode.errors import BciDecodeError
from bci_decode.layers import cpu, cuda
from bci_decode.layers.norms import NORMS, LayerNorm, NoNorm
from bci_decode.layers.parametrized import ParametrizedRecurrent
from bci_decode.layers.places import PLACES, Norms, Place
from bci_decode.layers.stacked import Shape
from bci_decode.layers.weights import (
    SIDES,
    GateWeights,
    as_torchs,
    gate_weights,
    layer_names,
    with_norms,
)

_log = logging.getLogger(__name__)


class NormGRU(ParametrizedRecurrent):
    """A GRU with a normalization in the sockets of a place.

    `norm` is a name of `norms.NORMS`, or a function of a width that makes a module with the
    contract of `norms.Norm`. `place` is a name of `places.PLACES`:

        input      gates and candidate of W x
        recurrent  gates and candidate of U h
        apart      both, each by itself, as Ba et al. 2016
        sum        all of W x + U h together; the reset gate multiplies the normalized candidate
        sum2       gates of W x + U h, and W x + r * U h of the candidate
        state      h = norm(GRUCell(x, h)), which is fed back
        outputs    the outputs, which are not fed back

    In each bin h = (1 - z) h + z candidate: z is the share of the NEW candidate, and the rows of
    the weights are z, r, candidate. Norm "none" gives `torch.nn.GRU` at every place but "sum".

    Arguments, call and shapes are those of `torch.nn.GRU`. `bias` adds a bias inside each linear
    map. `eps`, `gain` (the initial gain; None: no gain) and `norm_bias` (a bias after the norm) go
    to a norm that is named; see its class for their meaning. `update_bias` is the initial bias
    of the update gate; a negative one keeps the state longer. Modules of layer l0 are in
    `norms["l0"]`, by the names of their sockets.

    With a norm whose statistics depend on the step (`per_step`), the state is a tuple of h and of
    the number of bins so far (L D, B), so that a carried state continues at its own step.

    Compiled kernels (see `layers.cpu`) run LayerNorm at apart, sum and sum2, and all that is
    `torch.nn.GRU` inside: no norm, weight norm, norms of the outputs; Triton's run LayerNorm at
    "apart" on a GPU. The rest runs a loop and `prepare` says so. `use_fused` = False always does.
    """

    SHOWN = ("norm", "place")
    use_fused = True
    weight_hh_l0: nn.Parameter
    norms: Any  # nn.ModuleDict of nn.ModuleDicts

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        norm: str | Callable[[int], nn.Module] = "layer",
        place: str = "sum",
        eps: float = 1e-5,
        gain: float | None = 1.0,
        norm_bias: bool = True,
        update_bias: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional
        )
        self.place, self.update_bias = place, update_bias
        self.norm = norm if isinstance(norm, str) else _name_of(norm)
        self._place = _known(place, PLACES, "place")
        if isinstance(norm, str):
            make = _known(norm, NORMS, "norm")
            norm = partial(make, eps=eps, gain=gain, bias=norm_bias)
        self.norms = self._make_norms(norm).to(device=device, dtype=dtype)
        self._make_parameters(device, dtype)

    def _shapes(self, inputs: int) -> dict[str, Shape | None]:
        rows = (3 * self.hidden_size,)
        biases = dict.fromkeys((f"bias_{side}" for side in SIDES), rows if self.bias else None)
        weights = {"weight_ih": (*rows, inputs), "weight_hh": (*rows, self.hidden_size)}
        return {**weights, **biases}

    def _make_norms(self, make: Callable[[int], nn.Module]) -> nn.ModuleDict:
        """The modules of all sockets, by layer name and socket."""
        sample, sockets = make(self.hidden_size), self._place.sockets
        self.per_step = bool(getattr(sample, "per_step", False))
        self.on_weights = bool(getattr(sample, "on_weights", False))
        if self.on_weights:
            if not self._place.sides:
                named = [name for name, place in PLACES.items() if place.sides]
                raise BciDecodeError(
                    f"{self.norm!r} acts on weights and cannot stand at {self.place!r}",
                    field="model.recurrent.norm",
                    remedy=f"choose model.recurrent.place={_listed(named)}, or another norm",
                )
            sockets = tuple((f"weight_{side}", 3) for side in self._place.sides)
        return nn.ModuleDict(
            {
                suffix: nn.ModuleDict({name: make(n * self.hidden_size) for name, n in sockets})
                for suffix in layer_names(self)
            }
        )

    def reset_parameters(self) -> None:
        """Draw weights and biases uniformly within 1 / sqrt(H), as `torch.nn.GRU` does."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        for module in self.norms.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        if self.update_bias:
            for suffix in layer_names(self):
                with torch.no_grad():
                    self._bias_of_update(suffix)[: self.hidden_size] += self.update_bias

    def _bias_of_update(self, suffix: str) -> Tensor:
        """The bias whose first H values are a constant of the update gate."""
        norms, names = self.norms[suffix], self._place.update_biases
        if self.on_weights or all(isinstance(norm, NoNorm) for norm in norms.values()):
            names = Place.update_biases
        for name in names:
            own = getattr(self, f"{name}_{suffix}", None)
            values = getattr(norms[name], "bias", None) if name in norms else own
            if isinstance(values, Tensor):
                return values
        raise BciDecodeError(
            "there is no bias that it could be the initial value of",
            field="model.recurrent.update_bias",
            remedy="set it to 0, or model.recurrent.bias=true and model.recurrent.norm_bias=true",
        )

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.hidden_size,), ()) if self.per_step else ((self.hidden_size,),)

    @property
    def kernel_form(self) -> str | None:
        """The compiled kernels that compute the layer: "plain", or the place of a LayerNorm."""
        made = [norm for norms in self.norms.values() for norm in norms.values()]
        if all(type(norm) is LayerNorm for norm in made) and self._place.form:
            same = len({(n.eps, n.gain is None, n.bias is None) for n in made}) == 1
            return self._place.form if same else None
        inside = self.place != "outputs" and not self.on_weights
        if inside and not all(type(norm) is NoNorm for norm in made):
            return None
        return "plain" if self._place.plain else None

    def prepare(self) -> None:
        """Compile or load the kernels that this layer runs; or say that it runs the loop."""
        form, device = self.kernel_form if self.use_fused else None, self.weight_hh_l0.device.type
        if form and device == "cpu":
            cpu.prepare(form, self.weight_hh_l0.dtype)
        elif form != "apart":
            _log.info("NormGRU(%s, %s): runs the readable loop", self.norm, self.place)

    def _run_direction(
        self, x: Tensor, state: Any, suffix: str, index: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Run the kernels, or else all arithmetic of the layer as a loop; tests compare them."""
        h, step = self._start(state)
        norms = self.norms[suffix]
        inputs, recurrent = (self._weights(side, suffix) for side in SIDES)
        form = self.kernel_form if self.use_fused else None
        on_gpu = form == "apart" and cuda.serves(x, h, self.weight_hh_l0)
        if form and (on_gpu or cpu.serves(x, h, self.weight_hh_l0, form)):
            y = _run_kernels(x, h, inputs, recurrent, norms, form, index)
            final = y[-1]
        else:
            x = x if index is None else x[index]
            y, final = self._loop(x, h, step, norms, inputs, recurrent)
        if not self.on_weights:
            y = self._place.outputs(norms, y, step)
        if self.per_step:
            return y, (final, final.new_full((len(final),), step + len(y), dtype=torch.int64))
        return y, final

    def _loop(
        self,
        x: Tensor,
        h: Tensor | None,
        step: int,
        norms: Norms,
        inputs: GateWeights,
        recurrent: GateWeights,
    ) -> tuple[Tensor, Tensor]:
        """The states (T, B, H) for x (T, B, I), and the last one."""
        place = Place() if self.on_weights else self._place
        h = x.new_zeros(x.shape[1], self.hidden_size) if h is None else h
        weight, bias = recurrent.weight, recurrent.bias
        states = []
        u = place.inputs(norms, F.linear(x, inputs.weight, inputs.bias), step)  # of all bins
        for number, bin_ in enumerate(u, step):
            a = F.linear(h, weight, bias)
            z, candidate = place.pre_activations(norms, bin_, a, number)
            h = torch.lerp(h, torch.tanh(candidate), torch.sigmoid(z))
            h = place.state(norms, h, number)
            states.append(h)
        return torch.stack(states), h

    def _start(self, state: Any) -> tuple[Tensor | None, int]:
        """The initial h and the number of bins before the first one."""
        if not self.per_step or state is None:
            return state, 0
        h, steps = state
        step = int(steps[0])
        if not bool((steps == step).all()):
            raise ValueError("the sequences of a batch have had different numbers of bins so far")
        return h, step

    def _weights(self, side: str, suffix: str) -> GateWeights:
        """One side's weights, normalized if the norm acts on them."""
        weights, norms = gate_weights(self, side, suffix), self.norms[suffix]
        if f"weight_{side}" in norms:
            return weights._replace(weight=norms[f"weight_{side}"](weights.weight, 0))
        return weights


def _run_kernels(
    x: Tensor,
    h: Tensor | None,
    inputs: GateWeights,
    recurrent: GateWeights,
    norms: Norms,
    form: str,
    index: Tensor | None,
) -> Tensor:
    """The states (T, B, H) by the compiled kernels of a form, which must serve this call."""
    if form == "plain":
        inputs, recurrent, eps = as_torchs(inputs), as_torchs(recurrent), 0.0
    else:
        inputs, recurrent = with_norms(inputs, recurrent, norms)
        eps = float(next(iter(norms.values())).eps)
    if x.device.type == "cuda":
        from bci_decode.layers.cuda.autograd import fused_gru_cuda  # needs triton

        return fused_gru_cuda(x if index is None else x[index], h, inputs, recurrent, eps)
    from bci_decode.layers.cpu.autograd import fused_gru  # needs numba

    return fused_gru(x, h, inputs, recurrent, form, eps, index)


def _known(name: str, table: dict[str, Any], key: str) -> Any:
    if name not in table:
        raise BciDecodeError(
            f"is {name!r}", field=f"model.recurrent.{key}", remedy=f"choose {_listed(table)}"
        )
    return table[name]


def _listed(names: Any) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _name_of(make: Any) -> str:
    """The name of a function or class, also inside a `functools.partial`."""
    return getattr(getattr(make, "func", make), "__name__", type(make).__name__)
