"""One run that trains a decoder on many sessions: its folder holds a run for each of them.

`seed<k>/` has the joint checkpoints, history and table, and `sessions/<name>/` an ordinary finished
run with the decoder of that session.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from bci_decode.config import TrainConfig
from bci_decode.files import written_whole
from bci_decode.runs.build import checked_decoder, session_file
from bci_decode.runs.checksums import SUMS
from bci_decode.runs.compose import plain
from bci_decode.runs.finished import draw_missing, repeat_score
from bci_decode.runs.folder import (
    JOINT,
    SESSIONS,
    check_same_data,
    decoder_name,
    file_stat,
    is_bidirectional,
)
from bci_decode.runs.job import Job, import_libraries
from bci_decode.runs.joint_report import joint_report, table_text
from bci_decode.runs.ownership import claim, locked
from bci_decode.runs.session_list import (
    Entry,
    check_once,
    check_same_target,
    check_words,
    joint_name,
    session_entries,
    with_session,
)
from bci_decode.training.distributed import Group, process_group

log = logging.getLogger(__name__)
STORE = "binned"  # the folder of binned sessions in data_dir


@dataclass(frozen=True)
class Recording:
    """A session of the list, and its file."""

    entry: Entry
    file: Path


def run_sessions(
    config: DictConfig,
    typed: TrainConfig,
    folder: Path,
    *,
    words: Sequence[str] = (),
    progress: bool = True,
) -> None:
    """The run of one folder, as `runs.run.run_one` makes that of a single session."""
    check_words(config, words)
    entries = session_entries(config)
    names = [entry.name for entry in entries]
    settings = plain(config) | {"sessions": names, "session": {"name": joint_name(config)}}
    with process_group(typed.trainer.device) as group, ExitStack() as held:

        def claimed() -> bool:
            """Whether there is anything to train, in a folder that is this run's from now on."""
            refusal = held.enter_context(locked(folder))
            working = claim(folder, settings, typed.overwrite)
            if working is not None and refusal:
                raise refusal
            return working is not None

        to_train = group.first(claimed)
        files = group.first(
            lambda: {one.name: session_file(with_session(config, one), words) for one in entries}
        )
        if to_train:
            recordings = [Recording(one, files[one.name]) for one in entries]
            where = typed, settings, folder, recordings
            MultiSessionJob(DictConfig(settings), *where, words, progress, group).run()
        elif not group.rank:
            for name, file in files.items():
                check_same_data(folder / SESSIONS / name, file)
            _report_finished(folder, typed)
        group.first(lambda: None)  # the others leave once all files are there


def _report_finished(folder: Path, typed: TrainConfig) -> None:
    """Repeat the table of a finished run; draw figures in a format that is not there yet."""
    from bci_decode.runs.figures import draw_history

    report = repeat_score(folder, JOINT, lambda report: f"{folder}: {table_text(report)}")
    for session in report["sessions"]:
        draw_missing(folder / SESSIONS / session["name"], typed)
    if typed.figures != "none" and not (folder / f"loss.{typed.figures}").exists():
        draw_history(folder, typed.figures)


class MultiSessionJob(Job):
    """The steps of a run that trains on many sessions."""

    def __init__(
        self,
        config: DictConfig,
        typed: TrainConfig,
        settings: dict[str, Any],
        folder: Path,
        recordings: Sequence[Recording],
        words: Sequence[str],
        progress: bool,
        group: Group,
    ):
        shown = progress and not group.rank
        super().__init__(config, typed, settings, folder, recordings[0].file, words, shown)
        self.recordings, self.group = recordings, group

    def run(self) -> None:
        if not self.group.rank:
            super().run()
            return
        from bci_decode.training.surroundings import torch_state_kept

        data, recording = self._load()
        with torch_state_kept():
            self._prepared(data, recording["md5"])[1](lambda row: None)

    def _load(self):
        return self.group.together(self._read)

    def _prepared(self, data, md5: str):
        prepare = super()._prepared
        return self.group.together(lambda: prepare(data, md5))

    def _read(self):
        with self.stopwatch.part("import"):
            import_libraries(recurrent=True)
            from bci_decode.data.many_sessions import prepare_many
        files = [(one.entry.name, one.file) for one in self.recordings]
        with self.stopwatch.part("read and bin"):
            store = Path(self.typed.data_dir).expanduser() / STORE
            data = prepare_many(files, self.typed.data, store)
        check_once({one.name: one.stored.md5 for one in data.sessions})
        bins = {one.name: one.stored.binned for one in data.sessions}
        check_same_target({name: (one.target, one.unit) for name, one in bins.items()})
        return data, {"md5": " ".join(one.stored.md5 for one in data.sessions)}

    def _decoder(self, data):
        import torch

        from bci_decode.models.multi_session import MultiSessionDecoder

        torch.manual_seed(self.typed.seed)
        axes = len(data.axes)
        units = [len(one.prepared.units) for one in data.sessions]
        decoders = [checked_decoder(self.config, inputs, axes, self.words) for inputs in units]
        return MultiSessionDecoder(decoders, self.typed.multi_session.read_out == "shared")

    def _about(self, data, md5: str) -> dict[str, Any]:
        """See `Job`; sessions, units and scaling are the trainer's to add."""
        return {
            "names": self.settings["names"],
            "model": self._model(0, len(data.axes))
            | {"read_out": self.typed.multi_session.read_out},
            "data": self.settings["data"],
        }

    def _model(self, inputs: int, axes: int) -> dict[str, Any]:
        sizes = {"input_size": inputs, "output_size": axes}
        return {"settings": self.settings["model"], "members": 1} | sizes

    def _trainer_class(self):
        from bci_decode.training.multi_session import MultiSessionTrainer

        return partial(MultiSessionTrainer, group=self.group)

    def _log_beginning(self, data, decoder) -> None:
        units = [len(one.prepared.units) for one in data.sessions]
        bins = [one.prepared.slices["train"].stop for one in data.sessions]
        log.info(
            "%s: %d sessions, %d to %d units, %d training bins in all",
            self.folder, len(units), min(units), max(units), sum(bins),
        )  # fmt: skip
        self._log_warnings(data)

    def _log_scores(self, report: dict[str, Any]) -> None:
        log.info("%s: %s", self.folder, table_text(report))

    def _write_report(self, data, decoder, history, recording: dict) -> dict[str, Any]:
        from bci_decode.runs.figures import draw_history
        from bci_decode.runs.load import restore_model
        from bci_decode.training.checkpoint import read_checkpoint

        best = self.working / "best.pt"
        state = read_checkpoint(best)
        restore_model(decoder, state, best)
        reports = [
            self._write_session(number, data.sessions[number], decoder, state)
            for number in range(len(self.recordings))
        ]
        about = self._kind(decoder, state) | {
            "session": str(self.config.session.name),
            "parameters": sum(values.numel() for values in state["decoder"].values()),
        }
        report = joint_report(self.working, reports, history, about)
        if self.typed.figures != "none":
            draw_history(self.working, self.typed.figures)
        return report

    def _kind(self, decoder, state: dict[str, Any]) -> dict[str, Any]:
        """What the reports of all sessions share."""
        bidirectional = is_bidirectional(self.config)
        return {
            "model": decoder_name(self.typed.names.model, bidirectional),
            "experiment": self.typed.names.experiment,
            "seed": self.typed.seed,
            "best_epoch": state["epoch"],
            "bidirectional": bidirectional,
            "device": str(decoder.device),
        }

    def _write_session(self, number: int, session, decoder, state: dict) -> dict[str, Any]:
        """Write the run of one session; returns its report."""
        import pandas as pd

        from bci_decode.evaluation.decoding import decode_parts
        from bci_decode.runs.figures import draw_run
        from bci_decode.runs.report import check_agrees, recording_kind, write_report
        from bci_decode.training.checkpoint import data_state, save_checkpoint

        one, stored = self.recordings[number], session.stored
        folder = self.working / SESSIONS / one.entry.name
        folder.mkdir(parents=True, exist_ok=True)  # a kill may have cut an earlier report short
        (folder / SUMS).unlink(missing_ok=True)
        settings = self.settings | {"session": one.entry.settings}
        with written_whole(folder / "config.yaml", sync=False) as temporary:
            temporary.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        history = pd.DataFrame(self.trainer.session_history[number])
        with written_whole(folder / "history.csv", sync=False) as temporary:
            history.to_csv(temporary, index=False)
        own = decoder.session_decoder(number)
        data = session.prepared.dataset(*session.prepared.slices)
        about = {
            "names": self.settings["names"],
            "model": self._model(len(data.units), len(data.axes)),
            "data": self.settings["data"],
            "session": {key: state[SESSIONS][number][key] for key in ("name", "md5", "split_bins")},
        }
        weights = own.state_dict()
        content = about | data_state(data) | {"epoch": state["epoch"], "decoder": weights}
        save_checkpoint(folder / "best.pt", content, sync=False)
        decoded = decode_parts(own, data)
        check_agrees(data, decoded, history, state["epoch"], folder / "best.pt")
        about = self._kind(decoder, state) | {
            "session": one.entry.name,
            "recording": recording_kind(one.entry.settings, stored.md5),
            "data": file_stat(one.file) | {"md5": stored.md5, "seconds": stored.seconds},
            "parameters": sum(values.numel() for values in weights.values()),
            "trained_with": [other.entry.name for other in self.recordings],
        }
        report = write_report(folder, data, decoded, history, self.typed, about)
        draw_run(folder, self.typed.figures, self.typed.trajectory)
        return report
