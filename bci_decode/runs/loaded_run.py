"""A trained decoder with its run: apply it to a session, score it."""

from __future__ import annotations

import logging
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bci_decode.config import TARGETS, DataConfig
from bci_decode.data.binning import BinnedSession, bin_session
from bci_decode.data.parts import Scaler, Window
from bci_decode.data.segments import left_out, scored_mask, scored_target, within
from bci_decode.data.session import Session, read_session
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import by_segment, predictor
from bci_decode.evaluation.scores import score_table
from bci_decode.files import md5_of
from bci_decode.runs.packed import Packed
from bci_decode.runs.reading import parsed_history, read_history, read_report
from bci_decode.runs.scored_bins import bins_within, scored_bins

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A trained decoder with all that decoding takes: scaling, units, bin width, lag, history.

    `model` is a `models.decoder.Decoder` or a closed-form model, `state` the content of `file`.
    """

    folder: Path  # of a packed run: the place for what commands write
    model: Any
    state: dict = field(repr=False)  # with all weights
    file: Path | None = None  # None: made in memory
    packed: Packed | None = field(default=None, repr=False)

    @property
    def source(self) -> Path:
        """The folder of the run, or its packed file."""
        return self.folder if self.packed is None or self.file is None else self.file

    @property
    def md5(self) -> str | None:
        """MD5 of `file`; None if there is none."""
        return md5_of(self.file) if self.file is not None and self.file.is_file() else None

    @cached_property
    def config(self) -> DataConfig:
        """How sessions are binned, split and cut into windows."""
        return DataConfig.from_dict(self.state["data"])

    @cached_property
    def units(self) -> pd.DataFrame:
        """The decoder's inputs in order: channel, area, row."""
        return pd.DataFrame(self.state["units"], columns=["channel", "area", "row"])

    @property
    def unit(self) -> str:
        """The unit of the target."""
        return self.state.get("unit") or TARGETS[self.config.target]

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.state["axes"])

    @property
    def metrics(self) -> dict:
        """The run's `metrics.json`."""
        return read_report(self.folder) if self.packed is None else deepcopy(self.packed.report)

    @property
    def history(self) -> pd.DataFrame:
        """The run's `history.csv`: a row per epoch."""
        if self.packed is not None:
            return parsed_history(self.packed.history, self.source)
        return read_history(self.folder)

    def scaler(self, name: str) -> Scaler:
        """The scaling of "counts" or "target", fitted on the training part."""
        return Scaler(self.state["mean"][name].numpy(), self.state["std"][name].numpy())

    def bin(self, session: Session | str | Path) -> BinnedSession:
        """A session in this run's bins, lag and target."""
        if not isinstance(session, Session):
            session = read_session(session, source=self.config.source)
        return bin_session(session, **self.config.binning_kwargs())

    def match_units(self, binned: BinnedSession) -> np.ndarray:
        """The session's column for each of the decoder's inputs; -1 where there is none."""
        return self.columns_of(binned.units, binned.name)

    def columns_of(self, units: pd.DataFrame, name: str) -> np.ndarray:
        """The row of `units` for each of the decoder's inputs; -1 where there is none.

        Units are matched by channel and row. Missing units are logged; `name` says of what. Raises
        `BciDecodeError` where no unit matches.
        """
        there = {
            (unit.channel, unit.row): column
            for column, unit in enumerate(units.itertuples(index=False))
        }
        inputs = self.units.itertuples(index=False)
        columns = np.array([there.get((unit.channel, unit.row), -1) for unit in inputs])
        missing = self.units[columns < 0]
        if len(missing) == len(columns):
            raise BciDecodeError(
                f"none of the decoder's {len(columns)} units is in it",
                file=name,
                remedy="choose a session of the same array, or train on this one",
            )
        if len(missing):
            shown = [f"{unit.channel} row {unit.row}" for unit in missing.head(3).itertuples()]
            more = ", ..." * (len(missing) > 3)
            log.warning(
                "%s: %d of the decoder's %d units are missing and count as silent or average: %s",
                name, len(missing), len(columns), ", ".join(shown) + more,
            )  # fmt: skip
        return columns

    def counts(self, binned: BinnedSession, columns: np.ndarray) -> np.ndarray:
        """Scaled counts (T, N) of the session's `columns`, as `match_units` returns them.

        Those of missing units are 0: with z-scored counts the unit's mean in training, otherwise
        no spike.
        """
        present = columns >= 0
        counts = np.zeros((len(binned.counts), len(columns)), np.float32)
        counts[:, present] = binned.counts[:, columns[present]]
        scaled = self.scaler("counts").transform(counts, np.float32)
        scaled[:, ~present] = 0.0
        return scaled

    def decode(
        self,
        session: Session | BinnedSession | str | Path,
        start: float | None = None,
        stop: float | None = None,
    ) -> pd.DataFrame:
        """Decode a session, or its bins within `start` to `stop` s of its clock, as one stream.

        Returns `time` (s, the end of the bin) and a column per axis in the target's unit, mm/s for
        velocity. Every bin is decoded from its own and earlier bins, unless the run is
        bidirectional. After a gap of the recording decoding starts again; bins in a gap are NaN.
        """
        binned = session if isinstance(session, BinnedSession) else self.bin(session)
        bins = bins_within(binned, start, stop)
        decoded = self._decode_bins(binned, self.match_units(binned), bins)
        table = pd.DataFrame(decoded, columns=list(self.axes))
        table.insert(0, "time", binned.edges[1:][bins])
        return table

    def _decode_bins(self, binned: BinnedSession, columns: np.ndarray, bins: slice) -> np.ndarray:
        config = self.config
        window = Window.from_config(config.window)
        decode = predictor(self.model, window.history, window.step, config.cutoff)
        pieces = [slice(*ends) for ends in within(binned.segments, bins).tolist()]
        if not pieces:
            return np.full((bins.stop - bins.start, len(self.axes)), np.nan)
        decoded = by_segment(decode, self.counts(binned, columns)[bins], pieces)
        return self.scaler("target").inverse(decoded)

    def truth(self, binned: BinnedSession, bins: slice) -> tuple[np.ndarray, dict[str, int]]:
        """The target (T, D), NaN in the bins that are not scored, and how many these are by reason.

        These lie in a gap, right after one or where the movement is unknown. Raises
        `BciDecodeError` where the target is in another unit than the decoder's.
        """
        if binned.unit != self.unit:
            raise BciDecodeError(
                f"{binned.name} has {self.config.target} in {binned.unit}, "
                f"the decoder in {self.unit}",
                field=self.config.source,
                remedy="write the unit of the movement into the file, or train on this session",
            )
        target, segments = binned.kinematics[bins], within(binned.segments, bins)
        burn_in = Window.from_config(self.config.window).burn_in
        truth = scored_target(target, scored_mask(target, segments, burn_in))
        return truth, left_out(target, segments, truth)

    def predictions(
        self,
        session: Session | str | Path,
        start: float | None = None,
        stop: float | None = None,
    ) -> dict[str, Any]:
        """Time, true and decoded target of a session, with all that a figure of them needs.

        The true target is NaN in bins that are not scored: see `truth`. Without a range, the
        session that the run was trained on is decoded in its test part alone.
        """
        if not isinstance(session, Session):
            session = read_session(session, source=self.config.source)
        binned = self.bin(session)
        bins, overlaps = scored_bins(self.state["session"], session, binned, start, stop)
        columns = self.match_units(binned)
        truth, missing = self.truth(binned, bins)
        if np.isnan(truth).any(axis=1).sum() > len(truth) - 2:
            raise BciDecodeError(
                f"fewer than two bins of {session.name} can be scored",
                file=session.path,
                field=self.config.source,
                remedy="choose another range, or decode without scores",
            )
        return {
            "time": binned.edges[1:][bins],
            "true": truth,
            "decoded": self._decode_bins(binned, columns, bins),
            "axes": np.array(self.axes),
            "target": self.config.target,
            "unit": self.unit,
            "bin_width": self.config.bin_width,
            "missing_units": int((columns < 0).sum()),
            "overlaps": overlaps,
            "left_out": missing,
        }

    def score(
        self,
        session: Session | str | Path,
        start: float | None = None,
        stop: float | None = None,
    ) -> pd.DataFrame:
        """R2, CC, RMSE (in the target's unit) and SNR (dB): a row for each axis and "mean".

        Without a range, the session that the run was trained on is scored on its test part alone.
        """
        found = self.predictions(session, start, stop)
        return score_table(found["true"], found["decoded"], self.axes)
