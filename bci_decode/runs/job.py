"""The steps of a run that trains: load, make the decoder, train, report; and its log."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bci_decode.config import TrainConfig, flatten
from bci_decode.errors import BciDecodeError
from bci_decode.files import md5_meanwhile
from bci_decode.runs.build import build_decoder, instantiate
from bci_decode.runs.folder import (
    decoder_name,
    different_settings,
    file_stat,
    is_bidirectional,
    run_name,
    settings_conflict,
    working_folder,
)
from bci_decode.runs.ownership import finish, more_epochs, start

log = logging.getLogger(__name__)
OnEpoch = Callable[[dict[str, float]], None]


class Job:
    """The steps of a run that trains."""

    def __init__(
        self,
        config: DictConfig,
        typed: TrainConfig,
        settings: dict[str, Any],
        folder: Path,
        data_file: Path,
        words: Sequence[str],
        progress: bool,
    ):
        from bci_decode.training.timing import Stopwatch

        self.config, self.typed, self.settings = config, typed, settings
        self.folder, self.working, self.data_file = folder, working_folder(folder), data_file
        self.words, self.progress = words, progress
        self.stopwatch = Stopwatch()

    def run(self) -> None:
        from bci_decode.training.loggers import check_installed

        check_installed(self.typed.logger)
        data, recording = self._load()  # PyTorch is imported there, while the checksum is taken
        from bci_decode.training.surroundings import torch_state_kept

        with torch_state_kept():
            self._train_and_report(data, recording)
        finish(self.folder)

    def _train_and_report(self, data, recording: dict) -> None:
        from bci_decode.training.loggers import experiment_logger

        decoder, train = self._prepared(data, recording["md5"])
        # only now: all settings are valid
        start(self.folder, self.settings, self.typed.overwrite)
        tool = self.typed.logger, self.working, run_name(self.folder), self.settings
        with logged_to(self.working / "train.log"), experiment_logger(*tool) as logger:
            self._log_beginning(data, decoder)
            history = train(lambda row: logger.log(row, int(row["epoch"])))
            with self.stopwatch.part("report and figures"):
                report = self._write_report(data, decoder, history, recording)
            final = {f"final_{key}": value for key, value in report["scores"]["test"].items()}
            logger.log(final, report["epochs"])
            if self.typed.trainer.profile:
                self.stopwatch.write(self.working / "profile.csv")
                log.info("\n".join(["where the time went:", *self.stopwatch.lines()]))
            self._log_scores(report)

    def _prepared(self, data, md5: str):
        """The decoder, and the function that trains or fits it: see `_training`."""
        with self.stopwatch.part("make the decoder"):
            decoder = self._decoder(data)
            return decoder, self._training(decoder, data, md5)

    def _decoder(self, data):
        return build_decoder(self.config, data, self.words)

    def _log_scores(self, report: dict[str, Any]) -> None:
        from bci_decode.runs.report import score_line

        log.info("%s; all files in %s", score_line(report), self.folder)

    def _load(self):
        """The data set, and checksum and duration of its recording."""
        # the checksum of a large file takes as long as PyTorch's import, and waits for nothing
        with md5_meanwhile(self.data_file) as md5:
            with self.stopwatch.part("import"):
                import_libraries(recurrent="recurrent" in self.settings["model"])
                from bci_decode.data.binning import bin_session
                from bci_decode.data.dataset import prepare
                from bci_decode.data.session import read_session
            with self.stopwatch.part("read"):
                name, source = str(self.config.session.name), self.typed.data.source
                session = read_session(self.data_file, name, source)
            with self.stopwatch.part("bin"):
                keys = self.typed.data
                grids = keys.window.grids
                data = prepare(bin_session(session, **keys.binning_kwargs(), grids=grids), keys)
            with self.stopwatch.part("wait for the checksum"):
                return data, {"md5": md5(), "seconds": session.duration}

    def _about(self, data, md5: str) -> dict[str, Any]:
        """What a checkpoint holds besides weights, units and scaling: see `training.checkpoint`."""
        axes = data.parts["train"].target.shape[1]
        sizes = {"input_size": len(data.units), "output_size": axes}
        split = {name: [bins.start, bins.stop] for name, bins in data.slices.items()}
        return {
            "names": self.settings["names"],
            "model": {"settings": self.settings["model"], "members": self.typed.ensemble} | sizes,
            "data": self.settings["data"],
            "session": {"name": str(self.config.session.name), "md5": md5, "split_bins": split},
        }

    def _training(self, decoder, data, md5: str) -> Callable[[OnEpoch], Any]:
        """A function that trains or fits and returns the history; bad settings are refused here."""
        from bci_decode.models.decoder import TrainedDecoder

        about = self._about(data, md5)
        if not isinstance(decoder, TrainedDecoder):
            from bci_decode.training.closed_form import fit_closed_form, write_closed_form

            fitted = fit_closed_form(decoder, data)
            return lambda _: write_closed_form(decoder, data, fitted, self.working, about)
        if self.typed.init_from and not self._resumes():
            from bci_decode.runs.initial_weights import load_initial_weights

            load_initial_weights(decoder, Path(self.typed.init_from), data)
        self.trainer = self._trainer(decoder, data, md5, about)
        return self.trainer.fit

    def _resumes(self) -> bool:
        """Whether weights come from an earlier start of this run."""
        begun = self.folder.exists() or (self.working / "last.pt").exists()
        return begun and not self.typed.overwrite

    def _trainer_class(self):
        from bci_decode.training.trainer import Trainer

        return Trainer

    def _trainer(self, decoder, data, md5: str, about: dict[str, Any]):
        optimizer, scheduler = (
            instantiate(self.config[key], key, self.words) for key in ("optimizer", "scheduler")
        )
        return self._trainer_class()(
            decoder,
            data,
            self.working,
            self.typed.trainer,
            optimizer,
            scheduler,
            self.typed.seed,
            fingerprint=md5,
            stopwatch=self.stopwatch,
            about=about,
            settings=self.settings,
            check_settings=self._check_settings,
            progress=self.progress,
        )

    def _check_settings(self, there: dict[str, Any]) -> None:
        """Refuse a `last.pt` of a run with other settings, but for more epochs."""
        changed = different_settings(flatten(there), self.settings)
        if changed and not more_epochs(changed):
            raise settings_conflict(self.working / "last.pt", changed)

    def _log_beginning(self, data, decoder) -> None:
        """What is trained on, and what a reader of the log must not overlook in the scores."""
        from bci_decode.data.segments import left_out_text

        bins = {name: len(part) for name, part in data.parts.items()}
        log.info("%s: %d units, bins %s", self.folder, len(data.units), bins)
        if line := left_out_text({name: part.left_out() for name, part in data.parts.items()}):
            log.info(line)
        self._log_warnings(data)

    def _log_warnings(self, data) -> None:
        if self.typed.trainer.select_on == "test":
            beside = "the holdout score is" if "holdout" in data.parts else "no holdout score is"
            log.warning(
                "select_on=test: the best epoch is selected on the TEST part, as in the source "
                "study; %s in metrics.json too",
                beside,
            )
        if is_bidirectional(self.config) and data.window.history is None:
            log.warning(
                "bidirectional over sequences: every bin is decoded from the whole stream, later "
                "bins too"
            )

    def _write_report(self, data, decoder, history, recording: dict) -> dict[str, Any]:
        from bci_decode.evaluation.decoding import decode_parts
        from bci_decode.runs.figures import draw_run  # Matplotlib is not waited for before
        from bci_decode.runs.load import restore_model
        from bci_decode.runs.report import check_agrees, recording_kind, write_report
        from bci_decode.training.checkpoint import read_checkpoint

        best = self.working / "best.pt"
        state = read_checkpoint(best)
        restore_model(decoder, state, best)
        decoded = decode_parts(decoder, data)
        bidirectional = is_bidirectional(self.config)
        about = {
            "session": str(self.config.session.name),
            "recording": recording_kind(self.settings["session"], recording["md5"]),
            "model": decoder_name(self.typed.names.model, bidirectional),
            "experiment": self.typed.names.experiment,
            "seed": self.typed.seed,
            "best_epoch": state["epoch"],
            "bidirectional": bidirectional,
            "data": file_stat(self.data_file) | recording,
            "parameters": sum(value.numel() for value in state["decoder"].values()),
            "device": str(getattr(decoder, "device", "cpu")),
        }
        check_agrees(data, decoded, history, state["epoch"], best)
        report = write_report(self.working, data, decoded, history, self.typed, about)
        draw_run(self.working, self.typed.figures, self.typed.trajectory)
        return report


def import_libraries(recurrent: bool) -> None:
    """Import what reading and training need, for recurrent models the compiled layers too.

    While PyTorch makes half a million objects, Python's garbage collector would go through them
    several times, and through all of them again in the first epochs. So it waits, and then leaves
    all objects of this moment alone, for good; those of a notebook too.
    """
    pause = "torch" not in sys.modules and gc.isenabled()
    if pause:
        gc.disable()
    try:
        import bci_decode.training.trainer  # noqa: F401

        if recurrent:
            from bci_decode.layers.cpu import import_kernels

            import_kernels()
    finally:
        if pause:
            gc.freeze()
            gc.enable()


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what the project logs to a file, which keeps the traceback of a fault too."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("bci_decode")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        yield
    except Exception as fault:  # signals are none
        handler.handle(_fault_record(fault))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        with suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A log that a full disk cuts short without a word; files that matter more will say it."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _fault_record(fault: Exception) -> logging.LogRecord:
    """A mistake of the user as its line, a fault of the code with its traceback."""
    mistake = isinstance(fault, BciDecodeError)
    info = None if mistake else (type(fault), fault, fault.__traceback__)
    line = f"error: {fault}"
    return log.makeRecord(log.name, logging.ERROR, __file__, 0, line, (), info)
