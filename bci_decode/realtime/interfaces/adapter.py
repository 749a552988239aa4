"""A run as a PyTorch module with the contract of ezmsg-learn's RNNUnit.

ezmsg-learn makes the class that its settings name, from a run's `best.pt` or its folder:

    RNNSettings(model_class="bci_decode.realtime.interfaces.adapter.RunModule",
                checkpoint_path="RUN/best.pt", single_precision=True, device="cpu")

Only the contract is tested: ezmsg-learn itself needs a pre-release of ezmsg. It decodes; it cannot
be trained further there.

Shapes: B streams, T bins, N units, D axes of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bci_decode.errors import BciDecodeError
from bci_decode.realtime.graph import StepGraph
from bci_decode.runs.load import load_run, run_of_checkpoint
from bci_decode.training.checkpoint import check_content

State = tuple[Tensor, ...]


class RunModule(nn.Module):
    """Counts (B, T, N) of bins -> kinematics (B, T, D) in the target's unit, and the state.

    Scaling, lag and history are inside; with `data.count_window` or `data.presence`, counts are
    what `data.binning` makes of them. `input_size` and `output_size` must be N and D of the run.
    The run is `run`, its folder, or `checkpoint`, the content of its `best.pt`. Each tensor of the
    state is (1, B, ...).
    """

    def __init__(
        self,
        input_size: int,
        output_size: int | Mapping[str, int] | None = None,
        run: str | Path | None = None,
        checkpoint: dict[str, Any] | None = None,
    ):
        super().__init__()
        if checkpoint is None and run is None:
            raise BciDecodeError(
                "no run is given", remedy="set checkpoint_path to its best.pt, or model_kwargs run"
            )
        if checkpoint is None:
            loaded = load_run(str(run))
        else:
            path = Path(run or "best.pt")
            check_content(checkpoint, path)
            loaded = run_of_checkpoint(checkpoint, path)
        outputs = {"output": output_size} if isinstance(output_size, int) else output_size
        sizes = {"output": len(loaded.axes)}
        for name, given, own in (
            ("input_size", input_size, len(loaded.units)),
            ("output_size", outputs or sizes, sizes),
        ):
            if given != own:
                raise BciDecodeError(
                    f"is {given}, the run's {own}",
                    file=loaded.source,
                    field=name,
                    remedy="send the counts of the run's units in its order",
                )
        self.graph = StepGraph(loaded)
        self._axes = len(loaded.axes)
        # ezmsg-learn makes an optimizer, which refuses a model in closed form for its lack of any
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    @classmethod
    def infer_config_from_state_dict(cls, state_dict: Mapping[str, Any], **_: Any) -> dict:
        """What the constructor takes, from the content of `best.pt` or this module's state_dict."""
        if "decoder" in state_dict:
            sizes = {"input_size": len(state_dict["units"]), "output_size": len(state_dict["axes"])}
            return {**sizes, "checkpoint": dict(state_dict)}
        means = [values for name, values in state_dict.items() if name.endswith(".mean")]
        return {"input_size": len(means[0]), "output_size": len(means[-1])}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **named: Any) -> Any:
        """Load weights; those of a `best.pt` are in place since this module was made of it."""
        own = self.state_dict() if "decoder" in state_dict else state_dict
        return super().load_state_dict(own, *args, **named)

    def train(self, mode: bool = True) -> RunModule:
        """Stay in the mode of evaluation: a run that decodes has no dropout."""
        return super().train(False)

    def init_hidden(self, batch_size: int, device: torch.device | str = "cpu") -> State:
        """The state of streams before their first bin."""
        start = self.graph.initial()
        return tuple(
            tensor.to(device).expand(batch_size, *tensor.shape[1:])[None] for tensor in start
        )

    def forward(
        self, x: Tensor, input_lens: Tensor | None = None, hx: State | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """{"output": kinematics (B, T, D)} of counts (B, T, N), and the state after them.

        Raises `BciDecodeError` for counts that are no numbers of 0 or more.
        """
        if input_lens is not None:
            raise BciDecodeError(
                "sequences of different lengths are for training only", field="input_lens"
            )
        wrong = ~(torch.isfinite(x) & (x >= 0))
        if wrong.any():
            raise BciDecodeError(
                f"are {x[wrong][0].item():g} for unit {int(wrong.nonzero()[0, -1])}",
                field="counts",
                remedy="give the number of spikes of each unit in the bin",
            )
        state = self.init_hidden(len(x), x.device) if hx is None else hx
        own = tuple(tensor[0] for tensor in state)
        outputs = [x.new_empty(len(x), 0, self._axes)]
        for counts in x.float().unbind(1):
            output, *following = self.graph(counts, *own)
            outputs.append(output[:, None].to(x.dtype))
            own = tuple(following)
        return {"output": torch.cat(outputs, 1)}, tuple(t[None] for t in own)
