"""Train a decoder on a session: `python -m bci_decode.train model=lngru session=simulated`.

Composes the configuration in `conf/`, makes the parts that it names and runs them. No science here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bci_decode.config import TrainConfig
from bci_decode.errors import BciDecodeError, stop_writing
from bci_decode.files import md5_of
from bci_decode.runs.compose import CONF, register_configs
from bci_decode.runs.folder import (
    begun,
    decoder_name,
    held,
    identity,
    is_finished,
    leave_nothing,
    record_failure,
    relative,
)
from bci_decode.runs.sweep import SweepReport, end_of_sweep
from bci_decode.training.timing import Stopwatch

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(config: DictConfig) -> None:
    """A run, alone or of a sweep; what stops it is said in one line, in a sweep kept in failed.txt, and the next begins."""
    logging.raiseExceptions = False  # a reader of the output that has gone, `head` say, does not stop a run
    folder = relative(Path(HydraConfig.get().runtime.output_dir))
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        with held(folder):
            _run_or_leave_nothing(config, folder)
        record_failure(folder, None)
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        if not in_sweep:
            _exit(_told(mistake))
        record_failure(folder, _told(mistake))  # first: it makes the folder that train.log lies in
        log.error("%s", _told(mistake))
    except KeyboardInterrupt:
        again = "the same command, without overwrite=true," if config.overwrite else "the same command"
        _exit(f"interrupted; {again} goes on from the last whole epoch", code=130)
    except Exception as fault:  # of the project, not of its user: all that is known helps
        traceback.print_exc()
        if not in_sweep:
            sys.exit(1)
        record_failure(folder, f"{type(fault).__name__}: {_one_line(fault)}")


def _run_or_leave_nothing(config: DictConfig, folder: Path) -> None:
    try:
        run(config, folder)
    except Exception as mistake:
        if leave_nothing(folder):
            _log_to_file(f"error: {_told(mistake)}")
        raise


def run(config: DictConfig, folder: Path) -> None:
    """One run: session -> bins -> parts -> decoder -> training -> report and pictures, all in `folder`."""
    typed = OmegaConf.to_object(config)  # the dataclasses: OmegaConf has checked every name and type
    assert isinstance(typed, TrainConfig)
    typed.check()
    choices = HydraConfig.get().runtime.choices
    _check_selection(typed, choices["experiment"])
    config = DictConfig(OmegaConf.to_container(config, resolve=True))
    settings = OmegaConf.to_container(config)
    assert isinstance(settings, dict)
    path = _session_file(config)
    if not config.overwrite and is_finished(folder, settings, path):
        log.info("%s: finished already; overwrite=true starts anew", folder)
        return

    stopwatch = Stopwatch()
    # the checksum of a large file takes as long as PyTorch's import, and waits for nothing
    with ThreadPoolExecutor(1) as pool:
        md5 = pool.submit(md5_of, path)
        with stopwatch.part("import"):
            from bci_decode.data.binning import bin_session
            from bci_decode.data.dataset import prepare
            from bci_decode.data.session import read_session
            from bci_decode.runs.report import told, write_report
            from bci_decode.training.trainer import Trainer
        with stopwatch.part("read"):
            session = read_session(path, config.session.name)
        with stopwatch.part("bin"):
            data = prepare(bin_session(session, **typed.data.grid()), typed.data)
        with stopwatch.part("wait for the checksum"):
            fingerprint = md5.result()
    with stopwatch.part("make the decoder"):
        decoder = _decoder(config, data)
        optimizer, scheduler = (_part(config[key], key) for key in ("optimizer", "scheduler"))
        settled = typed.trainer, optimizer, scheduler, typed.seed, fingerprint, stopwatch
        trainer = Trainer(decoder, data, folder, *settled)
    about = {
        "session": config.session.name,
        "model": decoder_name(choices["model"], decoder.bidirectional),
        "experiment": choices["experiment"],
        "seed": typed.seed,
        "data": identity(path) | {"md5": fingerprint, "seconds": session.duration},
    }
    with begun(folder, settings, config.overwrite):  # not before all settings have proved good
        bins, inside = ({name: len(data.parts[name]) for name in names} for names in (data.bins, data.stretches))
        within = f", of the test part's {inside}" if inside else ""
        log.info("%s: %d units, bins %s%s", folder, len(data.units), bins, within)
        _say_what_is_odd(typed, data, decoder)
        history = trainer.fit()
        with stopwatch.part("report and pictures"):
            from bci_decode.runs.figures import draw_run  # Matplotlib is not waited for before

            report = write_report(trainer, history, typed.data, about)
            draw_run(folder)
        if typed.trainer.profile:
            stopwatch.write(folder / "profile.csv")
            log.info("\n".join(["where the time went:", *stopwatch.lines()]))
    log.info("%s; all files in %s", told(report), folder)


def _say_what_is_odd(config: TrainConfig, data, decoder) -> None:
    """What whoever reads only the log must not overlook in the scores."""
    if config.trainer.select_on == "test":
        honest = "an honest score stands beside it in metrics.json" if data.stretches else "no honest score"
        log.warning("select_on=test: the best epoch is chosen on the TEST part, as in the source study; %s", honest)
    if decoder.bidirectional and data.window.history is None:
        log.warning(
            "bidirectional over sequences: every bin is decoded from the whole stream, what follows it included"
        )


def _check_selection(config: TrainConfig, experiment: str) -> None:
    """The test part may choose the epoch in the one study that is known for it, and nowhere else."""
    if config.trainer.select_on == "test" and experiment != "source_study":
        raise BciDecodeError(
            "is test, which makes every score too good",
            field="trainer.select_on",
            remedy="choose val; experiment=source_study alone may",
        )


def _session_file(config: DictConfig) -> Path:
    """The session's file: `session.path`, or what `session._target_` makes or finds."""
    if "_target_" not in config.session:
        return Path(config.session.path).expanduser()
    return _part(OmegaConf.masked_copy(config.session, [key for key in config.session if key != "name"]), "session")


def _decoder(config: DictConfig, data):
    import torch

    torch.manual_seed(config.seed)
    return _part(config.model, "model", input_size=len(data.units), output_size=data.parts["train"].target.shape[1])


def _part(config: DictConfig | None, key: str, **sizes):
    """Make what `config` names; a partial one, an optimiser say, is made later and as well guarded."""
    if not config:
        return None
    made = _guarded(key, hydra.utils.instantiate, config, **sizes)
    return partial(_guarded, key, made) if isinstance(made, partial) else made


def _guarded(key: str, make, *arguments, **sizes):
    """What `make` makes; whatever it says of a wrong argument becomes one line that names what the user set."""
    try:
        return make(*arguments, **sizes)
    except Exception as error:  # constructors of any library raise what they like
        cause = error.__cause__ or error
        if isinstance(cause, BciDecodeError):
            raise cause from error
        given = [word for word in HydraConfig.get().overrides.task if word.startswith((f"{key}.", f"{key}="))]
        where = f"{key} ({', '.join(given)})" if given else key
        remedy = f"correct it on the command line or in conf/{key}/"
        raise BciDecodeError(_one_line(cause), field=where, remedy=remedy) from error


def _log_to_file(line: str) -> None:
    """Into train.log alone: standard error has it from `_exit`."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, line, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _told(mistake: BaseException) -> str:
    """What Hydra, OmegaConf or this project says of a mistake, in one line: the key, what is wrong, what exists."""
    if isinstance(mistake, BciDecodeError):
        return str(mistake)
    missing = re.search(r"Missing mandatory value: (\S+)", str(mistake))
    if missing:
        return f"{missing[1]}: is not set; give it on the command line, {missing[1]}=..."
    absent = re.search(
        r"Could not find '(\S+)/(\S+)'.*?Available options in '\S+':(.*?)Config search", str(mistake), re.S
    )
    if absent:
        hint = "; 'pip install -e .[sweep]' brings more" * absent[1].startswith("hydra/")
        return f"{absent[1]}={absent[2]}: there is none; choose one of {', '.join(absent[3].split())}{hint}"
    from_resolver = re.search(r"BciDecodeError raised while resolving interpolation: (.*)", str(mistake))
    if from_resolver:
        return from_resolver[1]
    if isinstance(mistake, OSError):
        return f"{mistake.filename}: cannot be written ({mistake.strerror}); choose another output_dir="
    line = _one_line(mistake)
    if "session.path" in line and "override" in line:
        return "session.path: is for a file of your own; add session=local"
    if "override_grammar" in line:
        return line.split(" See http")[0] + "; quote odd characters twice: 'session.path=\"my file.mat\"'"
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        line += ": " + _one_line(mistake.__cause__)
    return line


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__


def _exit(line: str, code: int = 2) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """The command line; a user's mistake in it is one line and exit code 2, never a traceback."""
    if not CONF.is_dir():
        _exit(f"{CONF}: no such folder; run from a clone of the project, installed with 'make setup'")
    wants_traceback = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its own many lines and exits with 1
    sys.argv = [sys.argv[0], *_arranged(sys.argv[1:])]
    try:
        _job()
    except BrokenPipeError:
        stop_writing()
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as mistake:  # of composing; a run has its own
        if wants_traceback:
            raise
        _exit(_told(mistake))
    except Exception as fault:
        if SweepReport.sweep is None:
            raise
        # a launcher's: a process of its was killed, say; what became of all runs follows
        print(f"error: the launcher stopped: {type(fault).__name__}: {_one_line(fault)}", file=sys.stderr)
    finally:
        stop = sys.exc_info()[1]
        interrupted = isinstance(stop, SystemExit) and stop.code == 130
        if SweepReport.sweep is not None and end_of_sweep(SweepReport.sweep, interrupted) and not interrupted:
            sys.exit(1)


def _arranged(words: list[str]) -> list[str]:
    """The command line as Hydra wants it: -m before all overrides; and all sessions are those of the catalogue."""
    words = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    return [re.sub(r"^session=glob\(\*\)$", "session=glob(*,exclude=[local,simulated])", word) for word in words]


register_configs()  # here, since the processes of a sweep import this module and call no main


if __name__ == "__main__":
    from bci_decode.train import main as importable_main  # what __main__ holds, other processes cannot import

    importable_main()
