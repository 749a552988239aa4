"""What Hydra, OmegaConf or this project says of a mistake, as one line: key, problem, remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import yaml
from omegaconf.errors import OmegaConfBaseException

from bci_decode.config import described_keys, flatten
from bci_decode.errors import BciDecodeError, one_line

LISTED = "; --help lists all keys"


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
        options = found[3].split()
        near = difflib.get_close_matches(found[2], options, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        listed = ", ".join(options)
        return f"{found[1]}={found[2]}: there is none; {meant}choose one of {listed}{hint}"
    if found := re.search(r"(.*)\s+full_key: (\S+)\s+(?:reference|object)_type=", text, re.S):
        if "is not Optional" in found[1]:
            return f"{found[2]}: is null; give a value"
        return f"{found[2]}: {' '.join(found[1].split())}"
    if found := re.search(r"BciDecodeError raised while resolving interpolation: (.*)", text):
        return found[1]
    if found := re.search(r"Could not (?:override|append to config|delete)[^']*'([^'=]+)", text):
        return f"{found[1]}: {_no_such_key(found[1])}"
    if found := re.search(r"Key '(\S+)' (?:is not in struct|not in '\w+')\s+full_key: (\S+)", text):
        return f"{found[2]}: {_no_such_key(found[2])}"
    if re.match(r"(Cannot find primary|Primary) config ", text):
        return "--config-name, --config-path: there is no such configuration; leave them out"
    if isinstance(mistake, OSError):
        problem = f"cannot be used ({mistake.strerror or one_line(mistake)})"
        return (
            f"{mistake.filename}: {problem}; choose another path, with output_dir= say"
            if mistake.filename
            else problem
        )
    return _hydra_line(mistake)


def _no_such_key(key: str) -> str:
    hint = suggestion(key)
    if hint == LISTED and key.startswith(("model.", "optimizer.", "scheduler.")):
        hint += f"; +{key}=... adds one that its class takes"
    return f"no such key{hint}"


def suggestion(key: str) -> str:
    """ "; did you mean ...?" for a key that does not exist, else where all keys are listed."""
    if key == "session.path":
        return " of a published or simulated session; add session=local"
    parts = _part_keys()
    if key in parts:
        return f"; it is a key of {', '.join(parts[key])}"
    described = [name for name, _, _ in described_keys()]
    groups = [group for group in _groups() if group.count(".") == key.count(".")]
    known = [*described, *parts, *groups]
    near = _same_last_word(key, described) or _nearest(key, known) or _same_last_word(key, parts)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return LISTED


def _same_last_word(key: str, known: Iterable[str]) -> list[str]:
    return [one for one in known if one.split(".")[-1] == key.split(".")[-1]]


def _nearest(key: str, known: list[str]) -> list[str]:
    """The key that is meant, if any: of the same group by its last word, else by the whole."""
    group, _, name = key.rpartition(".")
    beside = {one.rpartition(".")[2]: one for one in known if one.rpartition(".")[0] == group}
    if group and beside:
        return [beside[one] for one in difflib.get_close_matches(name, beside, n=1)]
    return difflib.get_close_matches(key, known, n=1, cutoff=0.75)


def unread(key: str, hint: str) -> BciDecodeError:
    """What to say of a key that `+key=value` added, and nothing takes."""
    return BciDecodeError("nothing reads this key", field=key, remedy=f"remove it{hint}")


def _groups() -> list[str]:
    """The keys that choose a yaml file: model, data.split, ..."""
    from bci_decode.runs.compose import CONF

    folders = (path.relative_to(CONF) for path in CONF.glob("**/") if any(path.glob("*.yaml")))
    return [".".join(path.parts) for path in folders if path.parts]


def _part_keys() -> dict[str, list[str]]:
    """The keys of the yaml files of sessions, models, optimizers and schedules, and whose."""
    from bci_decode.runs.compose import CONF

    found: dict[str, list[str]] = {}
    for part in ("session", "model", "optimizer", "scheduler"):
        for path in sorted((CONF / part).glob("*.yaml")):
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for key in flatten(content, f"{part}."):
                found.setdefault(key, []).append(f"{part}={path.stem}")
    return found


def _hydra_line(mistake: BaseException) -> str:
    """What Hydra says, with what this project knows to do about it."""
    line = one_line(mistake)
    if "session.path" in line and "override" in line:
        return "session.path: is for a file of your own; add session=local"
    if "override_grammar" in line:
        remedy = "quote odd characters twice: 'session.path=\"my file.mat\"'"
        return f"{line.split(' See http')[0]}; {remedy}"
    if isinstance(mistake.__cause__, OmegaConfBaseException):
        if "full_key: " in str(mistake.__cause__):
            return error_line(mistake.__cause__)
        line += ": " + one_line(mistake.__cause__)
    return line
