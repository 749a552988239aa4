"""Export the step of a run to a file, which is kept only if it gives what PyTorch gives.

Shapes: T bins, B streams, N units, D axes of the target.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bci_decode.data.binning import BinnedSession
from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, written_whole
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx.decoder import COUNTS, OnnxDecoder, library, session_of
from bci_decode.realtime.onnx.model import OPSET, node_count, onnx_model
from bci_decode.realtime.own_recording import own_recording
from bci_decode.runs.loaded_run import LoadedRun

log = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of the target's SD: float32 in another order of the sums stays far below
DRAWN_BINS = 2000  # where no recording is at hand
STREAM_BINS, STREAMS = 300, 2  # that are drawn in any case
LEAST_BINS = 64  # of a session that tells something


@dataclass(frozen=True)
class Exported:
    """What was written: `inputs` are name and shape of each, with "streams" for the batch.

    `difference` is the largest one from PyTorch in `bins` bins of `session`, and in some more that
    are drawn at random, in SDs of the target.
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
    counts that are drawn at random at the training's mean rates. Some of these are run in any case,
    in two streams whose state is put into another session half-way. Raises `BciDecodeError`, and
    leaves no file, where the model cannot be exported or its outputs differ from PyTorch's.
    """
    path = expand_user(path)
    check_place(path)
    check_libraries()
    model = onnx_model(run, opset)
    about, counts = _counts(run, session)
    with written_whole(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
        difference = max(
            largest_difference(run, OnnxDecoder(temporary), counts),
            difference_in_streams(run, temporary),
        )
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


def check_libraries() -> None:
    """Refuse, before any work, to go without one of the libraries."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        library(name)


def largest_difference(run: LoadedRun, decoder: OnnxDecoder, counts: np.ndarray) -> float:
    """Between the outputs of a decoder and of PyTorch for counts (T, N), in SDs of the target.

    Where the target of the run is not scaled, the SD is that of PyTorch's outputs.
    """
    return _in_sds(run, decoder.predict(counts)[:, None], _expected(run, counts[:, None]))


def difference_in_streams(run: LoadedRun, path: Path) -> float:
    """As `largest_difference`, of a file and drawn counts, for several streams in one batch.

    Half-way, their state is put into a new session of the file.
    """
    counts = _drawn(run, (STREAM_BINS, STREAMS))
    session = session_of(str(path))
    names = [value.name for value in session.get_inputs() if value.name != COUNTS]
    state = [torch.cat([tensor] * STREAMS).numpy() for tensor in StepGraph(run).initial()]
    outputs = []
    for number, bin_ in enumerate(counts):
        if number == STREAM_BINS // 2:
            session = session_of(str(path))
        output, *state = session.run(None, {COUNTS: bin_, **dict(zip(names, state, strict=True))})
        outputs.append(output)
    return _in_sds(run, np.array(outputs), _expected(run, counts))


def _expected(run: LoadedRun, counts: np.ndarray) -> np.ndarray:
    """What PyTorch decodes (T, B, D) from counts (T, B, N)."""
    graph, outputs = StepGraph(run), []
    state = tuple(torch.cat([tensor] * counts.shape[1]) for tensor in graph.initial())
    with torch.inference_mode():
        for bin_ in torch.from_numpy(counts):
            output, *after = graph(bin_, *state)
            state = tuple(after)
            outputs.append(output.numpy())
    return np.array(outputs)


def _in_sds(run: LoadedRun, outputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of outputs (T, B, D), in SDs of the target or of those expected."""
    scaled = run.config.scale.target == "zscore"
    sd = run.scaler("target").std if scaled else expected.std(axis=(0, 1))
    return float((np.abs(outputs - expected) / np.where(sd > 0, sd, 1.0)).max())


def _counts(run: LoadedRun, session: Session | None) -> tuple[str, np.ndarray]:
    """What the counts are of, and the counts (T, N) in the run's order."""
    if session is None and (path := own_recording(run)) is not None:
        session = read_session(path, source=run.config.source)
    if session is not None:
        binned = run.bin(session)
        return binned.name, _in_order(run, binned)
    return "counts drawn at random", _drawn(run, (DRAWN_BINS, 1))[:, 0]


def _drawn(run: LoadedRun, shape: tuple[int, int]) -> np.ndarray:
    """Counts (T, B, N) drawn at the mean rates of the training, float32."""
    rates = np.maximum(run.scaler("counts").mean, 0) if _scaled(run) else np.ones(len(run.units))
    drawn = np.random.default_rng(0).poisson(rates, (*shape, len(run.units)))
    return drawn.astype(np.float32)


def _scaled(run: LoadedRun) -> bool:
    return run.config.scale.counts == "zscore"


def _in_order(run: LoadedRun, binned: BinnedSession) -> np.ndarray:
    """The session's counts in the run's order; units that it lacks have their mean in training."""
    columns = run.match_units(binned)
    present, bins = int((columns >= 0).sum()), len(binned.counts)
    if 2 * present < len(columns) or bins < LEAST_BINS:
        line = "%s: verifies little, with %d bins and %d of the decoder's %d units"
        log.warning(line, binned.name, bins, present, len(columns))
    counts = np.tile(run.scaler("counts").mean.astype(np.float32), (len(binned.counts), 1))
    counts[:, columns >= 0] = binned.counts[:, columns[columns >= 0]]
    return counts
