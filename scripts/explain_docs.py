"""Brings a document's tables and pictures up to date with what explain.py has written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from explain_common import sections

from bci_decode.errors import BciDecodeError
from bci_decode.files import written_whole

TABLE = re.compile(r"<!-- table (\S+): (.+?) -->\n.*?<!-- end -->", re.S)
FIGURE = re.compile(r"\(figures/(\S+\.png)\)")


def refresh(document: Path, made: Path) -> str:
    """Fill in what stands between `<!-- table FOLDER: NAME -->` and `<!-- end -->`, FOLDER as below `made`, and copy the
    pictures: figures/A_B.png is A/B.png. Returns what was not found, and so was left as it stood."""
    missing = []

    def filled(match: re.Match) -> str:
        folder, name = match.groups()
        found = sections(made / folder / "tables.md").get(name)
        if found is None:
            missing.append(f"table {folder}: {name}")
            return match[0]
        return f"<!-- table {folder}: {name} -->\n{found.strip()}\n<!-- end -->"

    if not document.is_file():
        raise BciDecodeError("no such document", file=document, remedy="start from the project's folder")
    text = document.read_text()
    pictures = {"_".join(path.relative_to(made).parts): path for path in made.rglob("*.png")}
    for name in FIGURE.findall(text):
        if name in pictures:
            (document.parent / "figures").mkdir(exist_ok=True)
            shutil.copyfile(pictures[name], document.parent / "figures" / name)
        else:
            missing.append(f"picture {name}")
    with written_whole(document) as temporary:
        temporary.write_text(TABLE.sub(filled, text))
    return f"{document} is up to date" + f", but for what has not been made: {', '.join(missing)}" * bool(missing)
