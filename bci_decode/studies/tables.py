"""The tables of a study, kept as CSV and, all of a folder together, as Markdown in `tables.md`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bci_decode.comparison.tables import markdown
from bci_decode.files import written_whole


def save_table(folder: Path, name: str, table: pd.DataFrame) -> str:
    """Write NAME.csv and put the table into `tables.md`; returns it as Markdown with its name."""
    table.to_csv(folder / f"{name}.csv", index=False)
    return append_table(folder, name, table)


def append_table(folder: Path, name: str, table: pd.DataFrame, text: str = "") -> str:
    """Put a table and the text above it into `tables.md`, in place of one of the same name."""
    path = folder / "tables.md"
    sections = read_sections(path)
    sections.pop(name, None)
    sections[name] = f"\n{text}" + "\n" * bool(text) + markdown(table)
    with written_whole(path) as temporary:
        parts = (f"## {title}\n{content}" for title, content in sections.items())
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return f"{name}\n{sections[name]}"


def read_sections(path: Path) -> dict[str, str]:
    """The tables of a `tables.md` with their text, by name; none if there is no such file."""
    parts = path.read_text(encoding="utf-8").split("## ")[1:] if path.exists() else []
    split = (part.split("\n", 1) for part in parts)
    return {name: content.rstrip("\n") + "\n" for name, content in split}
