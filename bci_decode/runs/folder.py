"""The folder of a run: its name, its files, whether the run in it is finished, why it failed.

`<output_dir>/<experiment>/<session>/<model>[-bidirectional][-<target>]/seed<k>/` is the same for
the same command. With a chained split, each cut is a run in `seed<k>/cut<j>/`. A sweep over other
keys puts a folder such as `optimizer.lr=0.01/` above the seed's. A run trains in `seed<k>.running/`
beside its folder, which is renamed when the run finishes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bci_decode.config import check_folder_name, default_settings, flatten
from bci_decode.errors import BciDecodeError
from bci_decode.files import check_path, is_regular, md5_of
from bci_decode.runs.checksums import RUNNING, SUMS
from bci_decode.runs.reading import read_report, read_settings
from bci_decode.style import BIDIRECTIONAL

FAILED = "failed.txt"
MAX_REASON = 1 << 16  # bytes that are read of failed.txt
MAX_NAME = 120  # characters: file systems take 255 bytes
RESULTS = ("config.yaml", "history.csv", "metrics.json", "predictions.npz", "best.pt")
SESSIONS = "sessions"  # the folder of the sessions' runs, in the run of a decoder of many
JOINT = ("config.yaml", "history.csv", "metrics.json", "sessions.csv", "best.pt")  # its results
FIGURES = ("loss", "r2", "trajectory")
# keys that do not change the figures: a run continues, or counts as finished, though they differ
FREE_KEYS = (
    "overwrite",
    "names.swept",
    "data_dir",
    "output_dir",
    "session.path",
    "session.folder",
    "trainer.device",
    "trainer.threads",
    "trainer.profile",
    "logger",
    "figures",
    "trajectory.start",
    "trajectory.seconds",
)
OVERWRITE = "overwrite=true trains again, another output_dir= keeps both"


def decoder_name(model: str, bidirectional: bool) -> str:
    """What a decoder is called in folders and tables: lngru, lngru-bidirectional."""
    return model + BIDIRECTIONAL * bidirectional


def is_bidirectional(config: DictConfig) -> bool:
    """Whether the recurrent layers of a configuration read their input from both ends."""
    return bool(OmegaConf.select(config, "model.recurrent.bidirectional", default=False))


def run_folder(config: DictConfig) -> Path:
    """The folder of a configuration's run; names that lead out of `output_dir` are refused.

    With a chained split and no `data.split.cut` it is the seed's, which holds the runs of all cuts.
    """
    output, session = str(config.output_dir or "").strip(), session_name(config)
    if not output:
        raise BciDecodeError("is empty", field="output_dir", remedy="name a folder, outputs say")
    plain = session == Path(session).name and session.isprintable() and session.strip()
    if not plain or session == "..":
        raise BciDecodeError(
            f"is {session[:60]!r}",
            field="session.name",
            remedy="give a name without slashes: it names the run's folder",
        )
    for key in ("experiment", "model"):
        check_folder_name(f"names.{key}", config.names[key])
    target = config.data.target
    name = decoder_name(config.names.model, is_bidirectional(config))
    name += f"-{target}" * (target != "velocity")
    swept = swept_folder(config.names.swept)
    seed = f"seed{config.seed}"
    folder = relative(Path(output, config.names.experiment, session, name, swept, seed))
    check_path(folder)
    split = config.data.split
    return folder if split.cuts is None or split.cut is None else folder / f"cut{split.cut}"


def session_name(config: DictConfig) -> str:
    """The name of a configuration's session, or what its sessions are called together."""
    if config.get("sessions") is None:
        return str(config.session.name or "")
    from bci_decode.runs.session_list import joint_name  # the folder of one session needs none

    return joint_name(config)


def swept_folder(swept: str) -> str:
    """The name of the folder for swept keys: "optimizer.lr=0.01,trainer.batch_size=16".

    Characters that a file system may refuse become "-". A name that is changed so, or too long,
    ends with digits of its checksum, so that different values never share a folder.
    """
    plain = re.sub(r"[^\w.,=+-]", "-", swept.replace("/", "."))
    unchanged = plain == swept.replace("/", ".") and plain not in (".", "..")
    if unchanged and len(plain) <= MAX_NAME:
        return plain
    return f"{plain[:MAX_NAME]}-{hashlib.sha256(swept.encode()).hexdigest()[:8]}"


def model_folder(folder: Path) -> Path:
    """The folder of the model that a run's folder lies in: above swept keys, seed and cut."""
    seed = folder.parent if re.fullmatch(r"cut\d+", folder.name) else folder
    return seed.parents[1] if "=" in seed.parent.name else seed.parent


def run_name(folder: Path) -> str:
    """Experiment, session, model, seed and cut of a run's folder, with slashes between."""
    depth = len(folder.relative_to(model_folder(folder)).parts) + 3
    return "/".join(folder.parts[-depth:])


def relative(folder: Path) -> Path:
    """The folder as seen from the current one, if it is below it."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def working_folder(folder: Path) -> Path:
    """Where the run of this folder trains."""
    return folder.with_name(folder.name + RUNNING)


def is_complete(folder: Path) -> bool:
    """Whether a finished run is here with all its results; `last.pt` and figures may be gone.

    One of many sessions is complete if the runs of all its sessions are.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        last_row = (folder / "history.csv").read_text(encoding="utf-8").splitlines()[-1]
        many = "sessions" in metrics
        present = all((folder / name).stat().st_size for name in (JOINT if many else RESULTS))
        same = int(last_row.split(",")[0]) == metrics["epochs"]
        summed = "checksums" not in metrics or (folder / SUMS).stat().st_size
        if many:
            names = [session["name"] for session in metrics["sessions"]]
            data = bool(names) and all(is_complete(folder / SESSIONS / name) for name in names)
        else:
            data = {"file", "md5"} <= metrics["data"].keys()
        return bool(present and summed and same and data)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def changed_settings(folder: Path, settings: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys that differ between `config.yaml` of a folder and `settings`, as below."""
    return different_settings(read_settings(folder), settings)


def different_settings(
    there: dict[str, Any], settings: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Keys that differ between flat settings of a run and `settings`: (there, here) for each.

    A key that the folder's version did not have yet counts as its default, with which it does
    nothing.
    """
    here, absent = flatten(settings), "absent"
    defaults = default_settings()
    trained = any(key.startswith("model.recurrent.") for key in {**there, **here})
    unused = () if trained else ("trainer.", "optimizer.", "scheduler.")  # by a closed-form model
    values = {
        key: tuple(side.get(key, defaults.get(key, absent)) for side in (there, here))
        for key in {**there, **here}
        if key not in FREE_KEYS and not key.startswith(unused)
    }
    return {key: (old, new) for key, (old, new) in values.items() if old != new}


def conflict(folder: Path, content: str) -> BciDecodeError:
    """The error that a folder holds something else than the run that is asked for."""
    return BciDecodeError(f"holds {content}", file=folder, remedy=OVERWRITE)


def settings_conflict(folder: Path, changed: dict[str, tuple[Any, Any]]) -> BciDecodeError:
    """The error that a folder holds a run with other settings, and with which."""
    if "names.model" in changed and changed["names.model"][0] == "absent":
        return conflict(folder, "a run of an earlier version of this project")
    shown = [f"{key}={there}, here {here}" for key, (there, here) in list(changed.items())[:4]]
    more = "; ..." * (len(changed) > 4)
    return conflict(folder, f"a run with other settings ({'; '.join(shown)}{more})")


def check_same_data(folder: Path, data: Path) -> None:
    """Refuse the folder of a finished run on other data; the data file may be gone."""
    about = read_report(folder)["data"]
    if not is_regular(data) or file_stat(data).items() <= about.items():
        return
    if md5_of(data) != about["md5"]:
        raise conflict(folder, f"a run on other data, {about['file']} as it was then")


def file_stat(data: Path) -> dict[str, Any]:
    """Path, bytes and time of change of a data file: a cheap sign that it is still the same."""
    about = data.stat()
    return {"file": str(data), "bytes": about.st_size, "modified_ns": about.st_mtime_ns}


def record_failure(folder: Path, reason: str | None) -> None:
    """Leave `failed.txt` with the reason in the working folder of a run; None removes it."""
    path = working_folder(folder) / FAILED
    if reason is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(reason + "\n", encoding="utf-8")
    elif path.is_file():
        path.unlink()
        with contextlib.suppress(OSError):  # an interrupted run is in it
            path.parent.rmdir()
            remove_empty_parents(folder)


def failure(folder: Path) -> str | None:
    """Why the last start of this folder's run failed, None if it did not."""
    return reason_in(working_folder(folder))


def reason_in(folder: Path) -> str | None:
    """What the `failed.txt` of a folder says; None if there is none."""
    path = folder / FAILED
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(MAX_REASON).decode(errors="replace").strip()


def lock_file(folder: Path) -> Path:
    """The file that a process locks while it trains this folder's run."""
    return folder.with_name(f".{folder.name}.lock")


def remove_unused(folder: Path) -> None:
    """Remove what a run that wrote nothing leaves; only for the process that holds the lock."""
    working = working_folder(folder)
    if working.is_dir() and not any(path.name != "train.log" for path in working.iterdir()):
        (working / "train.log").unlink(missing_ok=True)
        working.rmdir()
    if not working.exists() and not folder.exists():
        with contextlib.suppress(OSError):  # Windows does not delete a file that is in use
            lock_file(folder).unlink()


def remove_empty_parents(folder: Path) -> None:
    """Remove the folders of seed, model, session and experiment if no run is in them."""
    model = model_folder(folder)
    above = folder.relative_to(model).parts[:-1]  # folders between model and run
    for path in folder.parents[: len(above) + 3]:
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError:  # other runs are there
            break
