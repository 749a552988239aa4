"""Compare runs: the loss-versus-epoch figure and the tables of all finished runs below a folder.

Writes comparison.png, comparison.csv, comparison.md into the folder and prints the tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bci_decode.compare import loss_table, markdown, r2_table, read_runs
from bci_decode.errors import exit_on_mistake
from bci_decode.files import written_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="outputs/<experiment>, or any folder with runs below it")
    folder = parser.parse_args().folder
    runs, unfinished = read_runs(folder)
    from bci_decode.plots import draw_comparison

    table = r2_table(runs)
    text = "\n".join(
        [
            "Test loss by epoch",
            "",
            markdown(loss_table(runs), index=True),
            "Test scores at the best epoch",
            "",
            markdown(table),
        ]
    )
    if unfinished:
        text += "\nNot finished, left out: " + ", ".join(str(path) for path in unfinished) + "\n"
    draw_comparison(runs, folder / "comparison.png")
    for name, content in (("comparison.csv", table.to_csv(index=False)), ("comparison.md", text)):
        with written_whole(folder / name) as temporary:
            temporary.write_text(content)
    print(text)
    print(f"wrote comparison.png, comparison.csv and comparison.md to {folder}")


if __name__ == "__main__":
    exit_on_mistake(main)
