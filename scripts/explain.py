"""Show why LayerNorm helps a GRU, and where it does not, by pictures and tables made from this project's own layers and runs.

parts:
  functions      sigmoid and tanh with their derivatives: where a gate no longer learns
  distributions  two extreme distributions of pre-activations before and after LayerNorm
  invariance     Table 1 of Ba, Kiros and Hinton 2016, measured cell by cell
  watch          trains GRU and LN-GRU and looks inside: pre-activations, gradient norms, growth of the weights
  plateau        optimiser steps to half the plateau against batch size and history, and what else ends it, by the
                 source study's recipe

Writes PNG and CSV files, and all tables as Markdown in tables.md: into the output folder what needs no session, the rest
into a folder of the session's name in it. Training that was interrupted goes on where it stopped, and what is trained is
not trained again; --overwrite forgets it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from explain_common import added, kept
from explain_docs import refresh
from explain_plateau import BATCH_SIZES, HISTORIES, plateau
from explain_watch import watch

from bci_decode.errors import BciDecodeError, run_cli

EXTREMES = {"mean 7, SD 1": (7, 1), "mean 0, SD 10": (0, 10)}
UNITS, SEED = 1024, 0  # drawn for each extreme distribution


def main() -> None:
    arguments = parsed()
    folder: Path = arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BciDecodeError(
            f"cannot be a folder ({error.strerror})", file=folder, remedy="choose another --output"
        ) from error
    for part in arguments.parts:
        where, text = PARTS[part](arguments)
        print(f"{text}\nwrote to {where}\n", flush=True)
    if arguments.document:
        print(refresh(arguments.document, folder))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART", help="default: all")
    parser.add_argument("--output", type=Path, default=Path("outputs/explain"), help="default: outputs/explain")
    parser.add_argument("--session", type=Path, help="watch, plateau: a recording, .mat; default: the simulated session")  # fmt: skip
    parser.add_argument("--recipe", choices=("source_study", "default"), default="source_study", help="watch: default source_study")  # fmt: skip
    parser.add_argument("--first-bins", type=whole, help="watch: bins to train and validate on; default: the recipe's")
    parser.add_argument("--epochs", type=whole, default=40, help="watch: default 40")
    parser.add_argument("--plateau-bins", type=whole, default=2000, help="plateau: bins to train on; default: 2000")
    parser.add_argument("--batch-sizes", type=whole, nargs="+", default=BATCH_SIZES, help="plateau: default 1 4 16 64 256")  # fmt: skip
    parser.add_argument("--histories", type=whole, nargs="+", default=HISTORIES, help="plateau: default 5 10 20 50 100")
    parser.add_argument("--plateau-steps", type=whole, default=12000, help="plateau: most steps of a run's optimiser, made whole epochs; default: 12000")  # fmt: skip
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="watch, plateau: default 0; watch takes the first"
    )
    parser.add_argument("--document", type=Path, help="bring its tables and pictures up to date: docs/why_layernorm.md")
    parser.add_argument("--jobs", type=whole, default=1, help="processes that train at the same time; default: 1")
    parser.add_argument("--overwrite", action="store_true", help="watch, plateau: train anew what is trained already")
    arguments = parser.parse_args()
    for action in parser._actions:
        parts = (action.help or "").split(":")[0].split(", ")
        given = getattr(arguments, action.dest, None) != action.default
        if given and set(parts) <= set(PARTS) and not set(parts) & set(arguments.parts):
            parser.error(f"{action.option_strings[0]} is of the part {' or '.join(parts)}, which --parts leaves out")
    return arguments


def whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def functions(arguments: argparse.Namespace) -> tuple[Path, str]:
    from bci_decode.studies.figures import draw_functions
    from bci_decode.training.monitor import BAND

    draw_functions(arguments.output / "functions.png", BAND)
    return arguments.output, f"functions.png: sigmoid, tanh and their derivatives, ±{BAND:g} shaded"


def distributions(arguments: argparse.Namespace) -> tuple[Path, str]:
    import pandas as pd
    import torch

    from bci_decode.studies.figures import draw_distributions
    from bci_decode.studies.invariance import layer_norm
    from bci_decode.training.monitor import BAND, share_outside

    random = torch.Generator().manual_seed(SEED)
    before = {name: mean + sd * torch.randn(UNITS, generator=random) for name, (mean, sd) in EXTREMES.items()}
    # the identity as weights: the layer's linear map leaves what it normalises as it is
    after = {name: layer_norm(torch.eye(UNITS), a[None], eps=1e-5)[0] for name, a in before.items()}
    rows = [
        {"pre-activations": name, "when": when, "mean": round(float(a[name].mean()), 3), "SD": round(float(a[name].std()), 3),
         f"share outside ±{BAND:g}": share_outside(a[name])}
        for name in before
        for when, a in (("before", before), ("after LayerNorm", after))
    ]  # fmt: skip
    as_arrays = [{name: a.numpy() for name, a in some.items()} for some in (before, after)]
    title = f"{UNITS} units drawn, seed {SEED}"
    draw_distributions(arguments.output / "distributions.png", as_arrays[0], as_arrays[1], title, BAND)
    return kept(arguments.output, "distributions", pd.DataFrame(rows))


def invariance(arguments: argparse.Namespace) -> tuple[Path, str]:
    from bci_decode.studies.invariance import as_in_the_paper, invariance_table

    table = invariance_table()
    where, _ = kept(arguments.output, "invariance", table)
    known = table[table["paper"] != ""]
    agree = int((known["found"] == known["paper"]).sum())
    shown = as_in_the_paper(table)
    text = f"{agree} of {len(known)} cells as in the paper; in brackets the largest relative change of an output.\n"
    return where, added(where, "invariance", shown.reset_index(), text)


PARTS = {
    "functions": functions,
    "distributions": distributions,
    "invariance": invariance,
    "watch": watch,
    "plateau": plateau,
}


if __name__ == "__main__":
    try:
        run_cli(main)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last whole epochs", file=sys.stderr)
        sys.exit(130)
