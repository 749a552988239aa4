"""What Hydra, OmegaConf or this project says of a mistake, as one line: key, problem, remedy."""

from __future__ import annotations

import difflib
import re

from omegaconf.errors import OmegaConfBaseException

from bci_decode.config import described_keys
from bci_decode.errors import BciDecodeError, one_line


def error_line(mistake: BaseException) -> str:
    """The mistake in one line that names the key, the problem and what exists instead."""
    text = str(mistake)
    if isinstance(mistake, BciDecodeError):
        return text
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{found[1]}: is not set; give it on the command line, {found[1]}=..."
    if found := re.search(
        r"Could not find '(\S+)/([^'/]*)'.*?Available options in '\S+':(.*?)Config search",
        text,
        re.S,
    ):
        hint = "; in a clone, pip install '.[sweep]' brings more" * found[1].startswith("hydra/")
        options = ", ".join(found[3].split())
        return f"{found[1]}={found[2]}: there is none; choose one of {options}{hint}"
    if found := re.search(r"BciDecodeError raised while resolving interpolation: (.*)", text):
        return found[1]
    if found := re.search(r"Could not (?:override|append to config|delete)[^']*'([^'=]+)", text):
        return f"{found[1]}: no such key{suggestion(found[1])}"
    if found := re.search(r"Key '(\S+)' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", text):
        return f"{found[2]}: no such key{suggestion(found[2])}"
    if isinstance(mistake, OSError):
        problem = f"cannot be used ({mistake.strerror or one_line(mistake)})"
        return (
            f"{mistake.filename}: {problem}; choose another path, with output_dir= say"
            if mistake.filename
            else problem
        )
    return _hydra_line(mistake)


def suggestion(key: str) -> str:
    """ "; did you mean ...?" for a key that does not exist, else where all keys are listed."""
    if key == "session.path":
        return " of a published or simulated session; add session=local"
    known = [name for name, _, _ in described_keys()]
    last = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    near = last or difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return "; --help lists all keys"


def _hydra_line(mistake: BaseException) -> str:
    line = one_line(mistake)
    if "session.path" in line and "override" in line:
        return "session.path: is for a file of your own; add session=local"
    if "override_grammar" in line:
        remedy = "quote odd characters twice: 'session.path=\"my file.mat\"'"
        return f"{line.split(' See http')[0]}; {remedy}"
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        line += ": " + one_line(mistake.__cause__)
    return line
