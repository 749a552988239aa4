"""Bring a document's tables and figures up to date with the output of the studies."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole
from bci_decode.studies.tables import read_sections

TABLE = re.compile(r"<!-- table (\S+): (.+?) -->\n.*?<!-- end -->", re.S)
FIGURE = re.compile(r"\(figures/(\S+\.png)\)")


def refresh(document: Path, output: Path) -> str:
    """Fill in the tables of a document and copy its figures.

    `<!-- table FOLDER: NAME -->` to `<!-- end -->` becomes the table NAME of FOLDER/tables.md below
    `output`, and figures/A_B.png is a copy of A/B.png. What is missing there stays as it is in the
    document; the returned line names it.
    """
    if not document.is_file():
        remedy = "start from the project's folder"
        raise BciDecodeError("no such document", file=document, remedy=remedy)
    text, missing = document.read_text(encoding="utf-8"), []

    def current_table(match: re.Match) -> str:
        folder, name = match.groups()
        table = read_sections(output / folder / "tables.md").get(name)
        if table is None:
            missing.append(f"table {folder}: {name}")
            return match[0]
        return f"<!-- table {folder}: {name} -->\n{table.strip()}\n<!-- end -->"

    figures = {"_".join(path.relative_to(output).parts): path for path in output.rglob("*.png")}
    for name in FIGURE.findall(text):
        if name in figures:
            (document.parent / "figures").mkdir(exist_ok=True)
            shutil.copyfile(figures[name], document.parent / "figures" / name)
        else:
            missing.append(f"figure {name}")
    with written_whole(document) as temporary:
        temporary.write_text(TABLE.sub(current_table, text), encoding="utf-8")
    return f"{document} is up to date" + f", except for {', '.join(missing)}" * bool(missing)
