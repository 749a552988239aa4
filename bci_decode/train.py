"""Train a decoder on a session: `python -m bci_decode.train model=lngru session=simulated`.

Composes the configuration in `conf/`, makes the parts that it names and runs them. No science here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bci_decode.catalog import catalog
from bci_decode.config import TrainConfig
from bci_decode.errors import BciDecodeError

log = logging.getLogger(__name__)

CONF = Path(__file__).resolve().parents[1] / "conf"
# keys that do not change the figures: a run goes on, or counts as finished, though they differ
FREE_KEYS = ("overwrite", "data_dir", "output_dir", "session.path", "trainer.device", "trainer.threads")
PICTURES = ("loss.png", "r2.png", "trajectory.png")
RUN_FILES = ("config.yaml", "history.csv", "metrics.json", "predictions.npz", "best.pt", "last.pt", *PICTURES)


def register_configs() -> None:
    """Tell Hydra the types of the keys, a `session` option for each catalogued session, and the resolver `stem`."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    for name in catalog():
        node = {"_target_": "bci_decode.catalog.downloaded_file", "name": name, "path": f"${{data_dir}}/{name}.mat"}
        store.store(group="session", name=name, node=node)
    OmegaConf.register_new_resolver("stem", lambda path: Path(path).stem, replace=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _job(config: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run(config, folder)
    except (BciDecodeError, OmegaConfBaseException) as mistake:
        _leave_nothing(folder)
        _exit(_told(mistake))
    except KeyboardInterrupt:
        _exit("interrupted; the same command goes on from the last whole epoch", code=130)


def run(config: DictConfig, folder: Path) -> None:
    """One run: session -> bins -> parts -> decoder -> training -> report and pictures, all in `folder`."""
    typed = OmegaConf.to_object(config)  # the dataclasses: OmegaConf has checked every name and type
    assert isinstance(typed, TrainConfig)
    config = DictConfig(OmegaConf.to_container(config, resolve=True))
    finished = _is_finished(config, folder)
    if finished and (folder / PICTURES[-1]).exists():
        log.info("%s: finished already; overwrite=true starts anew", _relative(folder))
        return

    from bci_decode.binning import bin_session
    from bci_decode.dataset import prepare
    from bci_decode.files import md5_of, written_whole
    from bci_decode.plots import draw_run
    from bci_decode.report import write_report
    from bci_decode.session import read_session
    from bci_decode.trainer import Trainer

    if finished:  # but stopped before its last picture
        draw_run(folder)
        return
    path = _session_file(config)
    session = read_session(path, config.session.name)
    grid = {name: getattr(typed.data, name) for name in ("bin_width", "lag", "target", "source", "units", "area")}
    data = prepare(bin_session(session, **grid), typed.data)
    decoder = _decoder(config, data)
    fingerprint = md5_of(path)
    trainer = Trainer(
        decoder, data, folder, typed.trainer, _part(config.optimizer, "optimizer"), _part(config.scheduler, "scheduler"),
        typed.seed, fingerprint,
    )  # fmt: skip
    if config.overwrite:  # not before all settings have proved good
        _forget(folder)
    with written_whole(folder / "config.yaml") as temporary:
        OmegaConf.save(config, temporary)
    log.info("%s: %d units, bins %s", _relative(folder), len(data.units), {n: len(p) for n, p in data.parts.items()})
    if typed.trainer.select_on == "test":
        log.warning(
            "select_on=test: the best epoch is chosen on the TEST part, as in the source study; no honest score"
        )
    history = trainer.fit()
    choices = HydraConfig.get().runtime.choices
    about = {
        "session": config.session.name,
        "model": choices["model"],
        "experiment": choices["experiment"],
        "seed": typed.seed,
        "data": {"file": str(path), "md5": fingerprint, "seconds": session.duration},
    }
    report = write_report(trainer, history, typed.data, about)
    draw_run(folder)
    test = report["scores"]["test"]
    log.info(
        "test R2 %.3f (x %.3f, y %.3f) at epoch %d, chosen by the %s; all files in %s",
        test["r2"], test["r2_x"], test["r2_y"], report["best_epoch"], report["selection_rule"], _relative(folder),
    )  # fmt: skip


def _session_file(config: DictConfig) -> Path:
    """The session's file: `session.path`, or what `session._target_` makes or finds."""
    if "_target_" not in config.session:
        return Path(config.session.path)
    return _part(OmegaConf.masked_copy(config.session, [key for key in config.session if key != "name"]), "session")


def _decoder(config: DictConfig, data):
    import torch

    torch.manual_seed(config.seed)
    sizes = {"input_size": len(data.units), "output_size": data.parts["train"].target.shape[1]}
    return _part(config.model, "model", **sizes)


def _part(config: DictConfig | None, key: str, **sizes):
    """Make what `config` names; whatever its constructor says of a wrong argument becomes one line."""
    if not config:
        return None
    try:
        return hydra.utils.instantiate(config, **sizes)
    except HydraException as error:
        if isinstance(error.__cause__, BciDecodeError):
            raise error.__cause__ from error
        words = [
            f"{key}.{k}={v}"
            for k, v in _flat(OmegaConf.to_container(config)).items()
            if isinstance(v, str) and "_target_" not in k
        ]
        hint = f" (text, not a number: {', '.join(words)})" if words else ""
        remedy = f"correct it in conf/{key}/ or on the command line"
        raise BciDecodeError(_one_line(error.__cause__ or error) + hint, field=key, remedy=remedy) from error


def _is_finished(config: DictConfig, folder: Path) -> bool:
    """Whether this very run is finished; refuse to mix it with another one that stands in its folder."""
    path = folder / "config.yaml"
    if config.overwrite or not path.exists():
        return False
    try:
        before = _flat(OmegaConf.to_container(OmegaConf.load(path)))
    except Exception as error:  # YAML's own errors, and whatever a damaged file leads to
        raise BciDecodeError("cannot be read", file=path, remedy="overwrite=true starts anew") from error
    now = _flat(OmegaConf.to_container(config))
    absent = object()
    changed = [
        key for key in {**before, **now} if before.get(key, absent) != now.get(key, absent) and key not in FREE_KEYS
    ]
    if changed:
        shown = ", ".join(f"{key}={before.get(key, 'absent')}" for key in changed[:4])
        raise BciDecodeError(
            f"holds a run with other settings ({shown}{', ...' * (len(changed) > 4)})",
            file=_relative(folder),
            remedy="overwrite=true starts anew, another output_dir= keeps both",
        )
    return (folder / "metrics.json").exists()


def _flat(tree, prefix: str = "") -> dict[str, object]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {key: value for name, branch in tree.items() for key, value in _flat(branch, f"{prefix}{name}.").items()}


def _forget(folder: Path) -> None:
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)


def _leave_nothing(folder: Path) -> None:
    """After a mistake, take away a run folder that was made for nothing, and its parents that are empty."""
    if (folder / "config.yaml").exists():
        return
    (folder / "train.log").unlink(missing_ok=True)
    for path in (folder, *folder.parents[:3]):
        try:
            path.rmdir()
        except OSError:  # not empty: someone else's
            return


def _relative(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


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
        return f"{absent[1]}={absent[2]}: there is none; choose one of {', '.join(absent[3].split())}"
    line = _one_line(mistake)
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
    register_configs()
    try:
        _job()
    except (HydraException, OmegaConfBaseException) as mistake:
        if wants_traceback:
            raise
        _exit(_told(mistake))
    except BrokenPipeError:  # the reader of the output, `head` say, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
