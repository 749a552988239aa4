"""Show why LayerNorm helps a GRU, and where it does not, in figures and tables of measurements.

parts:
  functions      sigmoid and tanh with their derivatives: where a gate no longer learns
  distributions  two extreme distributions of pre-activations before and after LayerNorm
  invariance     Table 1 of Ba, Kiros and Hinton 2016, measured cell by cell
  dynamics       trains GRU and LN-GRU: pre-activations, gradient norms, growth of the weights
  plateau        steps of the optimizer to half the plateau against batch size and history, and
                 what else ends it, by the source study's recipe
  batch_norm     trains GRUs with batch norm and layer norm: running statistics against those of
                 a batch, batches of one sequence, sequences longer than in training

Writes PNG and CSV files, and all tables as Markdown in tables.md: into the output folder, or, for
a recording, into a folder of its name in it. Interrupted training resumes, and finished training
is not repeated without --overwrite.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bci_decode.config import MAX_COUNT
from bci_decode.errors import BciDecodeError, run_cli
from bci_decode.options import MAX_JOBS, CommandParser, path, seed, whole

PARTS = ("functions", "distributions", "invariance", "dynamics", "plateau", "batch_norm")


count = whole(1, MAX_COUNT)
MANY: dict[str, Any] = {"type": count, "nargs": "+"}
ONE: dict[str, Any] = {"type": count}
DYNAMICS, PLATEAU, TRAINED = ("dynamics",), ("plateau",), ("dynamics", "plateau", "batch_norm")
# option -> parts that use it, meaning, how it is read; the default is that of the part
OPTIONS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "--session": (TRAINED, "a recording, .mat; default: the simulated session", {"type": path}),
    "--recipe": (
        DYNAMICS,
        "default: source_study",
        {"choices": ("source_study", "default")},
    ),
    "--first-bins": (DYNAMICS, "bins to train and validate on; default: the recipe's", ONE),
    "--epochs": (DYNAMICS, "default: 40", ONE),
    "--plateau-bins": (PLATEAU, "bins to train on; default: 2000", ONE),
    "--batch-sizes": (PLATEAU, "default: 1 4 16 64 256", MANY),
    "--histories": (PLATEAU, "default: 5 10 20 50 100", MANY),
    "--plateau-steps": (PLATEAU, "most steps of a run, in whole epochs; default: 12000", ONE),
    "--seeds": (
        TRAINED,
        "default: 0, of batch_norm 0 1 2; dynamics takes the first",
        {"type": seed, "nargs": "+"},
    ),
    "--overwrite": (TRAINED, "train again what is trained", {"action": "store_true"}),
}


def main() -> None:
    arguments = parse_args()
    output: Path = arguments.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be a folder ({error.strerror})"
        raise BciDecodeError(problem, file=output, remedy="choose another --output") from error
    for part in arguments.parts:
        folder, text = run_part(part, arguments)
        print(f"{text}\nwrote to {folder}\n", flush=True)
    if arguments.document:
        from bci_decode.studies.document import refresh

        print(refresh(arguments.document, output))


def parse_args() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--parts", nargs="*", choices=PARTS, default=PARTS, metavar="PART", help="default: all")
    add("--output", type=path, default=Path("outputs/explain"), help="default: outputs/explain")
    add("--jobs", type=whole(1, MAX_JOBS), default=1, help="runs trained at a time; default: 1")
    add("--document", type=path, help="update its tables and figures: docs/why_layernorm.md")
    for option, (parts, meaning, how) in OPTIONS.items():
        add(option, help=f"{', '.join(parts)}: {meaning}", default=None, **how)
    arguments = parser.parse_args()
    for option, (parts, *_) in OPTIONS.items():
        given = getattr(arguments, option[2:].replace("-", "_")) is not None
        if given and not set(parts) & set(arguments.parts):
            names = " or ".join(parts)
            parser.error(f"{option} is of the part {names}, which --parts leaves out")
    return arguments


def run_part(part: str, arguments: argparse.Namespace) -> tuple[Path, str]:
    """The folder and the text of a part; options that are not given keep the part's defaults."""
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    overwrite, output, jobs = arguments.overwrite is not None, arguments.output, arguments.jobs
    if part == "dynamics":
        from bci_decode.studies.dynamics import Pair, dynamics

        keys = ("session", "recipe", "first_bins", "epochs")
        own = {key: given[key] for key in keys if key in given}
        seed = arguments.seeds[0] if arguments.seeds else 0
        return dynamics(output, Pair(**own, seed=seed, overwrite=overwrite), jobs)
    if part == "plateau":
        from bci_decode.studies.plateau import Grid, plateau

        names = {"plateau_bins": "bins", "plateau_steps": "steps", "session": "session"}
        lists = ("batch_sizes", "histories", "seeds")
        own = {names[name]: given[name] for name in names if name in given}
        own |= {name: tuple(given[name]) for name in lists if name in given}
        return plateau(output, Grid(**own), jobs, overwrite)
    if part == "batch_norm":
        from bci_decode.studies.batch_norm import Comparison, batch_norm

        own = {"session": given["session"]} if "session" in given else {}
        own |= {"seeds": tuple(given["seeds"])} if "seeds" in given else {}
        return batch_norm(output, Comparison(**own, overwrite=overwrite), jobs)
    from bci_decode.studies import distributions

    return output, getattr(distributions, part)(output)


if __name__ == "__main__":
    try:
        run_cli(main)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes after the last whole epochs", file=sys.stderr)
        sys.exit(130)
