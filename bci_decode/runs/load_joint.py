"""From the run of a decoder of many sessions back to that decoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bci_decode.config import READ_OUTS, DataConfig
from bci_decode.errors import BciDecodeError
from bci_decode.models.decoder import Decoder
from bci_decode.models.multi_session import MultiSessionDecoder, ReadIn
from bci_decode.runs.build import build_model
from bci_decode.runs.folder import SESSIONS
from bci_decode.runs.load import run_content, run_of_content
from bci_decode.runs.loaded_run import LoadedRun
from bci_decode.runs.packed import Packed
from bci_decode.runs.reading import read_report
from bci_decode.runs.targets import check_model
from bci_decode.training.checkpoint import load_weights

SHARED = ("format", "version", "names", "data", "axes", "epoch")  # of the decoders of all sessions
OF_ONE = ("unit", "units", "mean", "std")


@dataclass(frozen=True, eq=False)
class JointRun:
    """A decoder of many sessions; `state` is the content of `file`."""

    folder: Path  # of a packed run: the place for what commands write
    decoder: MultiSessionDecoder
    state: dict[str, Any] = field(repr=False)
    file: Path
    packed: Packed | None = field(default=None, repr=False)

    @property
    def source(self) -> Path:
        """The folder of the run, or its packed file."""
        return self.folder if self.packed is None else self.file

    @property
    def config(self) -> DataConfig:
        """How sessions are binned, split and cut into windows."""
        return DataConfig.from_dict(self.state["data"])

    @property
    def sessions(self) -> list[str]:
        """The names of the sessions, in the order of the decoder's read-ins."""
        return [one["name"] for one in self.state["sessions"]]

    @property
    def metrics(self) -> dict[str, Any]:
        """The run's `metrics.json`."""
        return read_report(self.folder) if self.packed is None else dict(self.packed.report)

    def run(self, name: str) -> LoadedRun:
        """The decoder of one of `sessions`, as `load_run` gives it."""
        if name not in self.sessions:
            remedy = f"choose one of {', '.join(self.sessions)}"
            raise BciDecodeError(f"has no session {name!r}", file=self.source, remedy=remedy)
        number = self.sessions.index(name)
        one = self.of_one(self.decoder.session_decoder(number), self.state["sessions"][number])
        packed = self.packed
        if packed is not None:
            packed = replace(packed, state=one.state, report=packed.report["reports"][number])
        return replace(one, folder=self.folder / SESSIONS / name, packed=packed)

    def of_one(self, decoder: Decoder, session: dict[str, Any]) -> LoadedRun:
        """A decoder with the settings of this run; `session` is as `state["sessions"]` has it."""
        model = {
            "settings": self.state["model"]["settings"],
            "input_size": len(session["units"]),
            "output_size": len(self.state["axes"]),
            "members": 1,
        }
        state = {
            **{key: self.state[key] for key in SHARED if key in self.state},
            **{key: session[key] for key in OF_ONE if key in session},
            "model": model,
            "session": {key: session[key] for key in ("name", "md5", "split_bins")},
            "decoder": decoder.state_dict(),
        }
        return LoadedRun(self.folder, decoder.eval(), state, self.file, self.packed)


def load_joint(folder: str | Path, *, trust: tuple[str, ...] = ()) -> JointRun:
    """The decoder of many sessions of a run's folder, or of a packed run; `trust` as in `load_run`.

    `load_joint(folder).run("day2")` is the decoder of one session.
    """
    state, path, packed = run_content(folder)
    if "sessions" not in state:
        remedy = "name the run of a training with sessions=; recalibrate takes this one"
        raise BciDecodeError("is of one session", file=path, remedy=remedy)
    return _joint(state, path, packed, trust)


def load_any(folder: str | Path, *, trust: tuple[str, ...] = ()) -> LoadedRun | JointRun:
    """What `load_run` or `load_joint` gives, whichever it is."""
    content = run_content(folder)
    if "sessions" in content[0]:
        return _joint(*content, trust)
    return run_of_content(*content, trust=trust)


def _joint(
    state: dict[str, Any], path: Path, packed: Packed | None, trust: tuple[str, ...]
) -> JointRun:
    missing = [key for key in ("model", *SHARED) if key not in state]
    remedy = "use the original file, or train again with overwrite=true"
    if missing:
        raise BciDecodeError(f"lacks {', '.join(missing)}", file=path, remedy=remedy)
    if packed is not None and len(packed.report.get("reports", ())) != len(state["sessions"]):
        problem = "lacks the report of a session"
        raise BciDecodeError(problem, file=path, remedy="pack the run again: bci-decode pack RUN")
    about = state["model"]
    check_model(about["settings"], state["decoder"], path, trust)
    settings, axes = DictConfig(about["settings"]), len(state["axes"])
    decoders = [build_model(settings, len(one["units"]), axes) for one in state["sessions"]]
    if not all(isinstance(one.encoder, ReadIn) for one in decoders):
        raise BciDecodeError("its model has no read-in", file=path, remedy=remedy)
    shared = about.get("read_out", READ_OUTS[0]) == READ_OUTS[0]
    decoder = MultiSessionDecoder(decoders, shared)
    load_weights(decoder, state["decoder"], path)
    decoder.eval()
    folder = path.parent if packed is None else path.with_suffix("")
    return JointRun(folder, decoder, state, path, packed)
