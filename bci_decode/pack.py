"""Pack a finished run into one file: `bci-decode pack RUN`."""

from __future__ import annotations

import argparse
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bci_decode.errors import BciDecodeError, printable, run_cli
from bci_decode.options import CommandParser, add_trust, path

if TYPE_CHECKING:
    from bci_decode.runs.load_joint import JointRun
    from bci_decode.runs.loaded_run import LoadedRun
    from bci_decode.runs.packed import Packed


def main() -> None:
    """Pack a finished run into one file to share, in the format of safetensors.

    It holds the decoder of best.pt, the scores of metrics.json, history.csv and a model card, and
    no path of this computer. Every command takes the file as RUN, and so does load_run in Python.
    A decoder of many sessions is for calibrate, and for load_joint in Python.
    What such a command writes goes, by default, into a folder beside the file, with its name.
    """
    arguments = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from bci_decode.runs.load_joint import load_any

    run = load_any(arguments.run, trust=tuple(arguments.trust))
    if arguments.card:
        packed = run.packed or packed_run(run, arguments.license)
        print("\n".join(map(printable, packed.card.splitlines())))
        return
    print(_report(pack(run, arguments.output, arguments.license, arguments.overwrite)))


def _parse_args() -> argparse.Namespace:
    parser = CommandParser(main.__doc__)
    option = parser.add_argument
    option("run", type=path, metavar="RUN", help="folder of a finished run, or a packed one")
    option(
        "--output",
        type=path,
        metavar="FILE",
        help="what is written (default: RUN/<session>_<model>_seed<k>.safetensors)",
    )
    option("--license", metavar="TEXT", help="of a recording of your own, for the model card")
    option("--overwrite", action="store_true", help="replace a file that is there")
    option("--card", action="store_true", help="print the model card, and write nothing")
    add_trust(parser)
    arguments = parser.parse_args()
    for name in ("output", "overwrite"):
        if arguments.card and getattr(arguments, name):
            remedy = "remove it, or --card"
            raise BciDecodeError("has no effect with --card", field=f"--{name}", remedy=remedy)
    return arguments


def pack(
    run: LoadedRun | JointRun, output: Path | None = None, data_license: str | None = None,
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write the packed file of a run, whole or not at all; returns its path."""
    from bci_decode.files import made_folder
    from bci_decode.runs.packed import SUFFIX, write_packed

    packed = packed_run(run, data_license)
    file = output or run.folder / _name(run, packed)
    if file.suffix != SUFFIX:
        raise BciDecodeError(f"must end in {SUFFIX}", file=file, field="--output")
    if file.exists() and (file.is_dir() or not overwrite):
        remedy = "choose another --output, or --overwrite replaces a file"
        raise BciDecodeError("is there already", file=file, remedy=remedy)
    made_folder(file.parent, "choose another --output")
    write_packed(file, packed)
    return file


def packed_run(run: LoadedRun | JointRun, data_license: str | None) -> Packed:
    """The content of the packed file of a finished run."""
    from bci_decode.runs.model_card import PUBLISHED, joint_card, model_card
    from bci_decode.runs.packed import Packed, without_paths
    from bci_decode.runs.reading import history_text

    if run.packed is not None:
        problem = "has no effect" if data_license else "is packed already"
        remedy = "name the folder of a finished run"
        raise BciDecodeError(problem, file=run.source, remedy=remedy)
    report = without_paths(run.metrics)
    many = "sessions" in run.state
    if many:
        report["reports"] = [without_paths(one) for one in _reports(run.folder, run.state)]
    kinds = [one.get("recording", "own file") for one in report.get("reports", [report])]
    if data_license is not None and all(kind in ("simulated", *PUBLISHED) for kind in kinds):
        known = "a simulated session has none" if kinds[0] == "simulated" else "it is CC BY 4.0"
        problem = f"is for a recording of your own; {known}"
        raise BciDecodeError(problem, field="--license", remedy="remove it")
    try:
        card = (joint_card if many else model_card)(run.state, report, data_license)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = "is of an earlier version, and lacks what a model card tells"
        remedy = "train again with overwrite=true"
        raise BciDecodeError(problem, file=run.folder / "metrics.json", remedy=remedy) from error
    return Packed(run.state, report, history_text(run.folder), card)


def _reports(folder: Path, state: dict[str, Any]) -> list[dict[str, Any]]:
    """The `metrics.json` of each session of a decoder of many."""
    from bci_decode.runs.folder import SESSIONS
    from bci_decode.runs.reading import read_report

    return [read_report(folder / SESSIONS / one["name"]) for one in state[SESSIONS]]


def _name(run: LoadedRun | JointRun, packed: Packed) -> str:
    report, folder = packed.report, run.folder.resolve().name
    cut = f"_{folder}" if re.fullmatch(r"cut\d+", folder) else ""
    name = f"{report['session']}_{report['model']}_seed{report['seed']}{cut}"
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") + ".safetensors"


def _report(file: Path) -> str:
    size = file.stat().st_size / 1024
    return f"wrote {file}: {size:.0f} KiB; bci-decode pack {file} --card prints its model card"


if __name__ == "__main__":
    run_cli(main)
