"""Files of one's own on the command line: `session.path=FILE`, and `session.path=glob(*.mat)`.

Hydra's glob() is for the names of configurations, so patterns of files are replaced here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user

KEY = "session.path"
ITEM = re.compile(r"glob\((?P<pattern>.*?)\)(?=,|$)|(?P<path>[^,]+)")


def own_files(words: Iterable[str], sweep: bool) -> list[str]:
    """The words of a command line with patterns of files replaced, and session=local implied."""
    return with_local([_expanded(word, sweep) for word in words])


def with_local(words: list[str]) -> list[str]:
    """The words with session=local, which a path implies unless a session is chosen."""
    keys = [word.partition("=")[0] for word in words]
    return ["session=local", *words] if KEY in keys and "session" not in keys else words


def quoted(path: str) -> str:
    """A path of any characters as Hydra reads it."""
    text = re.sub(r'(\\*)("|$)', r"\1\1\2", path).replace('"', '\\"')
    return f'"{text}"'


def _expanded(word: str, sweep: bool) -> str:
    key, _, value = word.partition("=")
    if key != KEY or "glob(" not in value:
        return word
    files = _files(value)
    if not files:
        remedy = "check the pattern, and the folder that the command is given in"
        raise BciDecodeError("no file matches", field=word, remedy=remedy)
    if len(files) > 1 and not sweep:
        problem = f"matches {len(files)} files"
        raise BciDecodeError(problem, field=word, remedy="add -m to train on each of them")
    return f"{KEY}={','.join(map(_literal, files))}"


def _files(value: str) -> list[str]:
    """The files that paths and patterns name, those of a pattern sorted, each once."""
    files: dict[str, str] = {}
    for item in ITEM.finditer(value):
        if item["path"] is not None:
            paths = [item["path"]]
        else:
            pattern = str(expand_user(item["pattern"]))
            paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        for path in paths:
            files.setdefault(os.path.abspath(path), path)
    return list(files.values())


def _literal(path: str) -> str:
    """A path in quotes, in which nothing is an interpolation."""
    return quoted(re.sub(r"(\\*)\$\{", r"\1\1\\${", path))
