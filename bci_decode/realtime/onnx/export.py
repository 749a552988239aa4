"""Export the step of a run to a file, which is kept only if it gives what PyTorch gives.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bci_decode.data.binning import BinnedSession
from bci_decode.data.session import Session
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, md5_of, written_whole
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx.engine import OnnxDecoder, library
from bci_decode.realtime.onnx.model import OPSET, node_count, onnx_model
from bci_decode.runs.load import LoadedRun

TOLERANCE = 1e-5  # of the target's SD: float32 in another order of the sums stays far below
DRAWN_BINS = 2000  # where no recording is at hand


@dataclass(frozen=True)
class Exported:
    """What was written: `inputs` are name and shape of each, with "streams" for the batch.

    `difference` is the largest one from PyTorch in `bins` bins of `session`, in SDs of the target.
    """

    path: Path
    size: int
    nodes: int
    inputs: dict[str, list[int | str]]
    session: str
    bins: int
    difference: float


def export_onnx(
    run: LoadedRun, path: str | Path, session: Session | None = None, opset: int = OPSET
) -> Exported:
    """Write the step of a run to `path` and verify it over a whole session.

    The session is the given one, otherwise the run's own recording where it still is, otherwise
    counts that are drawn at random at the training's mean rates. Raises `BciDecodeError`, and
    leaves no file, where the model cannot be exported or its outputs differ from PyTorch's.
    """
    path = expand_user(path)
    check_place(path)
    library("onnxruntime")
    model = onnx_model(run, opset)
    about, counts = _counts(run, session)
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        difference = largest_difference(run, OnnxDecoder(temporary), counts)
        if not difference <= TOLERANCE:
            raise BciDecodeError(
                f"was not written: the exported model differs from PyTorch by {difference:.1e} of "
                f"the target's SD, more than {TOLERANCE:.0e}",
                file=path,
                remedy="use engine=torch",
            )
    dimensions = {i.name: i.type.tensor_type.shape.dim for i in model.graph.input}
    inputs = {name: [d.dim_param or d.dim_value for d in dim] for name, dim in dimensions.items()}
    size, nodes = path.stat().st_size, node_count(model.graph)
    return Exported(path, size, nodes, inputs, about, len(counts), difference)


def check_place(path: Path) -> None:
    """Refuse, before any work, a file that could not be written."""
    if path.suffix != ".onnx":
        raise BciDecodeError("has another ending than .onnx", file=path, remedy="name a FILE.onnx")
    if path.is_dir():
        raise BciDecodeError("is a folder", file=path, remedy="name a file in it")
    folder = path.parent
    if not folder.is_dir():
        raise BciDecodeError("no such folder", file=folder, remedy="make it, or choose another")
    if not os.access(folder, os.W_OK):
        raise BciDecodeError("cannot be written to", file=folder, remedy="choose another folder")


def largest_difference(run: LoadedRun, decoder: OnnxDecoder, counts: np.ndarray) -> float:
    """Between the outputs of a decoder and of PyTorch for counts (T, N), in SDs of the target.

    Where the target of the run is not scaled, the SD is that of PyTorch's outputs.
    """
    graph = StepGraph(run)
    state, outputs = graph.initial(), []
    with torch.inference_mode():
        for bin_ in torch.from_numpy(counts):
            output, *after = graph(bin_[None], *state)
            state = tuple(after)
            outputs.append(output[0].numpy())
    expected = np.array(outputs)
    scaled = run.config.scale.target == "zscore"
    sd = run.scaler("target").std if scaled else expected.std(0)
    differences = np.abs(decoder.predict(counts) - expected) / np.where(sd > 0, sd, 1.0)
    return float(differences.max())


def _counts(run: LoadedRun, session: Session | None) -> tuple[str, np.ndarray]:
    """What the counts are of, and the counts (T, N) in the run's order."""
    recording = session or _own_recording(run)
    if recording is not None:
        binned = run.bin(recording)
        return binned.name, _in_order(run, binned)
    generator = np.random.default_rng(0)
    rates = np.maximum(run.scaler("counts").mean, 0) if _scaled(run) else np.ones(len(run.units))
    drawn = generator.poisson(rates, (DRAWN_BINS, len(run.units)))
    return "counts drawn at random", drawn.astype(np.float32)


def _scaled(run: LoadedRun) -> bool:
    return run.config.scale.counts == "zscore"


def _in_order(run: LoadedRun, binned: BinnedSession) -> np.ndarray:
    """The session's counts in the run's order; units that it lacks have their mean in training."""
    columns = run.match_units(binned)
    counts = np.tile(run.scaler("counts").mean.astype(np.float32), (len(binned.counts), 1))
    counts[:, columns >= 0] = binned.counts[:, columns[columns >= 0]]
    return counts


def _own_recording(run: LoadedRun) -> Session | None:
    """The recording that the run was trained on, if it is still where it was."""
    from bci_decode.data.session import read_session

    try:
        path = Path(json.loads((run.folder / "metrics.json").read_text())["data"]["file"])
        same = path.is_file() and md5_of(path) == run.state["session"]["md5"]
    except (OSError, ValueError, KeyError, TypeError):  # no report, or one of an earlier version
        return None
    return read_session(path) if same else None
