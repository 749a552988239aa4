"""From the run of a decoder of many sessions back to that decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bci_decode.config import READ_OUTS, DataConfig
from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user
from bci_decode.models.multi_session import MultiSessionDecoder
from bci_decode.runs.build import build_model
from bci_decode.runs.checksums import verify
from bci_decode.runs.packed import is_packed, read_packed
from bci_decode.runs.targets import check_model
from bci_decode.training.checkpoint import load_weights, read_checkpoint


@dataclass(frozen=True, eq=False)
class JointRun:
    """A decoder of many sessions; `state` is the content of `file`."""

    folder: Path
    decoder: MultiSessionDecoder
    state: dict[str, Any] = field(repr=False)
    file: Path

    @property
    def config(self) -> DataConfig:
        """How sessions are binned, split and cut into windows."""
        return DataConfig.from_dict(self.state["data"])

    @property
    def sessions(self) -> list[str]:
        """The names of the sessions, in the order of the decoder's read-ins."""
        return [one["name"] for one in self.state["sessions"]]


def load_joint(folder: str | Path, *, trust: tuple[str, ...] = ()) -> JointRun:
    """The decoder of many sessions of a run, or of a packed one; `trust` as in `load_run`."""
    path = expand_user(folder)
    if is_packed(path):
        state, folder = read_packed(path).state, path.with_suffix("")
    else:
        folder, path = path, path / "best.pt"
        verify(folder, path.name)
        state = read_checkpoint(path, ("epoch", "model", "data"))
    if "sessions" not in state:
        remedy = "name the run of a training with sessions=; recalibrate takes this one"
        raise BciDecodeError("is of one session", file=path, remedy=remedy)
    about = state["model"]
    check_model(about["settings"], state["decoder"], path, trust)
    settings, axes = DictConfig(about["settings"]), len(state["axes"])
    decoders = [build_model(settings, len(one["units"]), axes) for one in state["sessions"]]
    decoder = MultiSessionDecoder(decoders, about["read_out"] == READ_OUTS[0])
    load_weights(decoder, state["decoder"], path)
    decoder.eval()
    return JointRun(folder, decoder, state, path)
