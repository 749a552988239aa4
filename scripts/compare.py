"""Compare runs: figures and tables of all runs below a folder, those of different protocols kept apart.

Writes into the folder comparison.png (test loss against epoch), r2_scatter.png (LN-GRU against GRU, session by
session), sessions.csv (a row for each run) and summary.md, and prints the summary. Where runs of the source study are
among them, ablation.csv too: its published table beside what they reach.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bci_decode.errors import exit_on_mistake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="outputs/<experiment>, or any folder with runs below it")
    folder = parser.parse_args().folder
    from bci_decode.compare import sessions_csv
    from bci_decode.compare_plots import draw_losses, draw_scatter
    from bci_decode.files import written_whole
    from bci_decode.runs import group_runs, read_runs
    from bci_decode.study import ablation_table, of_study
    from bci_decode.summary import summary

    runs, absent = read_runs(folder)
    groups = group_runs(runs)
    text = summary(groups, absent)
    draw_losses(groups, folder / "comparison.png")
    draw_scatter(groups, folder / "r2_scatter.png")
    tables = {"sessions.csv": sessions_csv(groups), "summary.md": text}
    if of_study(groups):
        tables["ablation.csv"] = ablation_table(groups).to_csv(index=False)
    for name, content in tables.items():
        with written_whole(folder / name) as temporary:
            temporary.write_text(content)
    print(text)
    others = ", ablation.csv" * ("ablation.csv" in tables)
    print(f"wrote comparison.png, r2_scatter.png, sessions.csv{others} and summary.md to {folder}")


if __name__ == "__main__":
    exit_on_mistake(main)
