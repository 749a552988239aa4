"""Run an exported step with onnxruntime, without PyTorch.

This module needs NumPy, onnxruntime, `bci_decode.errors` and `bci_decode.realtime.checks` alone:
copy the three files to use an exported decoder elsewhere.

Shapes: T bins, N units, D axes of the target.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bci_decode.errors import BciDecodeError, one_line
from bci_decode.realtime.checks import check_state, checked_counts

FORMAT = "bci_decode step 1"
COUNTS, OUTPUT, NEXT = "counts", "kinematics", "next."

Arrays = dict[str, np.ndarray]


class OnnxDecoder:
    """The decoder of a file that `bci-decode export` wrote, for one stream.

    Outputs are in `unit`, those of `axes`. `units` are [channel, area, row] of each count; `lag`
    is in s, from the end of a bin to the movement that is decoded from it. `count_window` and
    `presence` (s, or None) say how spikes are counted: see the configuration keys of these names.
    """

    def __init__(self, path: str | Path):
        self._session = _opened(Path(path))
        about = _metadata(self._session, path)
        self.model, self.target, self.unit, self.md5 = (
            about[name] for name in ("model", "target", "unit", "md5")
        )
        self.axes, self.units = tuple(about["axes"]), [tuple(unit) for unit in about["units"]]
        self.bin_width, self.lag = float(about["bin_width"]), float(about["lag"])
        self.count_window, self.presence = about["count_window"], about["presence"]
        try:
            self._start = initial_state(about["state"])
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, "state", "does not describe arrays") from error
        self._outputs = [OUTPUT, *(f"{NEXT}{name}" for name in self._start)]
        self.reset()

    def reset(self) -> None:
        """Start a new stream."""
        self._state = dict(self._start)

    def step(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (D,) of the next bin of counts (N,).

        Raises `BciDecodeError` for counts that are no N numbers of 0 or more.
        """
        feeds = {COUNTS: checked_counts(counts, len(self.units))[None], **self._state}
        output, *after = self._session.run(self._outputs, feeds)
        self._state = dict(zip(self._start, after, strict=True))
        return output[0]

    def predict(self, counts: np.ndarray) -> np.ndarray:
        """Kinematics (T, D) of the next bins of counts (T, N), one after another."""
        outputs = [self.step(bin_) for bin_ in counts]
        return np.array(outputs, np.float32).reshape(len(outputs), len(self.axes))

    @property
    def state(self) -> Arrays:
        """A copy of all that the decoder remembers, arrays by name; set it to continue from it."""
        return {name: values.copy() for name, values in self._state.items()}

    @state.setter
    def state(self, state: Arrays) -> None:
        check_state(state, self._start, "set the state of a decoder of the same file")
        self._state = {name: np.array(state[name], v.dtype) for name, v in self._start.items()}


def session_of(model: bytes | str) -> Any:
    """An onnxruntime session of a model's bytes or file, which runs in the thread that calls it."""
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; its warnings are about the model's unused parts
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def initial_state(described: Iterable[dict[str, Any]]) -> Arrays:
    """The state of one stream before its first bin, from the metadata of a model."""
    start = {}
    for one in described:
        shape, values = (1, *one["shape"]), one.get("initial", 0)
        start[one["name"]] = np.broadcast_to(np.array(values, one["dtype"]), shape).copy()
    return start


def library(name: str) -> Any:
    """An optional library, imported when it is used."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BciDecodeError(
            f"{name} is not installed", remedy="pip install 'bci_decode[onnx]'"
        ) from error


def _opened(path: Path) -> Any:
    if not path.is_file():
        remedy = "name a file that `bci-decode export` wrote"
        raise BciDecodeError("no such file", file=path, remedy=remedy)
    library("onnxruntime")
    try:
        return session_of(str(path))
    except Exception as error:  # onnxruntime has an exception of its own for each kind of damage
        problem = f"onnxruntime cannot load it ({one_line(error)[:200]})"
        raise BciDecodeError(problem, file=path, remedy=AGAIN) from error


AGAIN = "write it again with `bci-decode export`"
PLAIN = ("model", "md5", "target", "unit")  # values that are not JSON
JSON = ("axes", "units", "bin_width", "lag", "count_window", "presence", "state")


def _metadata(session: Any, path: str | Path) -> dict[str, Any]:
    """What the file tells of itself; what other programs have added is left out."""
    props = session.get_modelmeta().custom_metadata_map
    if props.get("format") != FORMAT:
        found = props.get("format")
        known = found is not None and found.startswith("bci_decode step ")
        problem = f"has the format {found!r}, not {FORMAT!r}" if known else "is another ONNX model"
        raise BciDecodeError(problem, file=path, remedy=AGAIN)
    for name in (*PLAIN, *JSON):
        if name not in props:
            raise _damaged(path, name, "is missing")
    about: dict[str, Any] = {name: props[name] for name in PLAIN}
    for name in JSON:
        try:
            about[name] = json.loads(props[name])
        except ValueError as error:
            raise _damaged(path, name, f"is {props[name][:40]!r}, not JSON") from error
    return about


def _damaged(path: str | Path, name: str, problem: str) -> BciDecodeError:
    return BciDecodeError(problem, file=path, field=f"metadata: {name}", remedy=AGAIN)
