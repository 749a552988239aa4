"""The step of a run as an ONNX model, with all that a program needs to run it in its metadata.

Shapes: B streams, N units, D axes of the target.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import bci_decode
from bci_decode.errors import BciDecodeError, one_line
from bci_decode.realtime.graph import StepGraph
from bci_decode.realtime.onnx.decoder import COUNTS, FORMAT, NEXT, OUTPUT, library
from bci_decode.realtime.onnx.exportable import make_exportable
from bci_decode.runs.loaded_run import LoadedRun

OPSETS = range(18, 24)  # what the exporter writes and onnxruntime reads
OPSET = 20


def onnx_model(run: LoadedRun, opset: int = OPSET) -> Any:
    """The `onnx.ModelProto` of a run's step, with metadata.

    Inputs are `counts` (B, N), float32 in the order of the run's units, and the state (B, ...);
    outputs are `kinematics` (B, D), float32 in the target's unit, and the state after the bin, each
    by its input's name after "next.". Raises `BciDecodeError` for a model that cannot be exported.
    """
    onnx = library("onnx")
    library("onnxscript")
    if opset not in OPSETS:
        remedy = f"choose {OPSETS.start} to {OPSETS.stop - 1}"
        raise BciDecodeError(f"is {opset}", field="--opset", remedy=remedy)
    graph = StepGraph(run)
    names, initial = graph.names, graph.initial()
    make_exportable(graph)
    model = _exported(Float32Step(graph), names, (torch.zeros(1, len(run.units)), *initial), opset)
    _forget_sources(model.graph)
    model.producer_name, model.producer_version = "bci_decode", bci_decode.__version__
    onnx.helper.set_model_props(model, metadata(run, names, initial))
    return model


class Float32Step(nn.Module):
    """A step whose kinematics are float32, as programs in other languages like them."""

    def __init__(self, graph: StepGraph):
        super().__init__()
        self.inner = graph  # fx keeps the name "graph" for itself

    def forward(self, counts: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, *after = self.inner(counts, *state)
        return output.float(), *after


def metadata(run: LoadedRun, names: list[str], initial: tuple[Tensor, ...]) -> dict[str, str]:
    """What the file tells of itself; all values but plain words are JSON.

    `lag` is in s, from the end of a bin to the movement that is decoded from it. `state` lists
    name, dtype and shape of each input for one stream, and its values before the first bin where
    they are not all 0.
    """
    config = run.config
    state = [_described(name, tensor) for name, tensor in zip(names, initial, strict=True)]
    return {
        "format": FORMAT,
        "bci_decode": bci_decode.__version__,
        "model": str(run.state["names"]["model"]),
        "md5": run.md5 or "",
        "target": config.target,
        "unit": run.unit,
        "axes": json.dumps(run.axes),
        "bin_width": json.dumps(config.bin_width),
        "lag": json.dumps(config.lag - config.delay),
        "count_window": json.dumps(config.count_window),
        "presence": json.dumps(config.presence),
        "units": json.dumps(run.state["units"]),
        "state": json.dumps(state),
    }


def _described(name: str, tensor: Tensor) -> dict[str, Any]:
    values = tensor.numpy()
    about = {"name": name, "dtype": str(values.dtype), "shape": list(values.shape[1:])}
    return about | ({"initial": values[0].tolist()} if values.any() else {})


def _exported(step: nn.Module, names: list[str], example: tuple[Tensor, ...], opset: int) -> Any:
    """The model proto; the example's one stream becomes two, for 1 would be taken as fixed."""
    streams = torch.export.Dim("streams")
    two = tuple(torch.cat([tensor, tensor]) for tensor in example)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                step.eval(),
                two,
                dynamo=True,
                dynamic_shapes=({0: streams}, tuple({0: streams} for _ in names)),
                input_names=[COUNTS, *names],
                output_names=[OUTPUT, *(f"{NEXT}{name}" for name in names)],
                opset_version=opset,
                verbose=False,
            )
            assert program is not None
            return program.model_proto
    except torch.onnx.OnnxExporterError as error:
        cause = one_line(error.__cause__ or error)
        raise BciDecodeError(
            f"PyTorch cannot export it ({cause[:200]})",
            field="model",
            remedy="use engine=torch",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings and log lines, which are about its own parts."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _forget_sources(graph: Any) -> None:
    """Remove what the exporter notes of files and lines of code, also in the graphs of loops."""
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_sources(attribute.g)


def node_count(graph: Any) -> int:
    """Nodes of a graph, those inside loops included."""
    inner = (a.g for node in graph.node for a in node.attribute if a.HasField("g"))
    return len(graph.node) + sum(map(node_count, inner))
