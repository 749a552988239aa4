"""The sessions of one decoder: what the entries of `sessions` name, as names and files."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from bci_decode.errors import BciDecodeError
from bci_decode.files import expand_user, is_regular
from bci_decode.runs.config_source import GROUP, ProjectConfigs

FIELD = "sessions"
PATTERN = "*?["
SUFFIXES = (".mat", ".nwb", ".npz")
MAX_SESSIONS = 1000


@dataclass(frozen=True)
class Entry:
    """A session of the list: its name, and the settings that `session=` would give it."""

    name: str
    settings: dict[str, Any]


def session_entries(config: DictConfig) -> list[Entry]:
    """The sessions that `config.sessions` names, in its order; matches of a pattern by name.

    Raises `BciDecodeError` for an empty list, a pattern without match, and a name that comes twice.
    """
    listed = [str(entry) for entry in config.sessions]
    if not listed:
        raise BciDecodeError("is empty", field=FIELD, remedy="name a session at least")
    entries = [found for entry in listed for found in _entries(entry, config)]
    if len(entries) > MAX_SESSIONS:
        problem = f"names {len(entries)} sessions"
        raise BciDecodeError(problem, field=FIELD, remedy=f"name at most {MAX_SESSIONS}")
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        remedy = "name each session once; files need names of their own"
        raise BciDecodeError(f"{twice[0]} is listed twice", field=FIELD, remedy=remedy)
    return entries


def check_words(config: DictConfig, words: Sequence[str]) -> None:
    """Refuse words of the command line that choose or change a session which is not listed."""
    key = next((word for word in words if re.match(r"\+*session(\.\w+)*=", word)), None)
    chosen = OmegaConf.to_container(config.session, resolve=True)
    if key and all(entry.settings != chosen for entry in session_entries(config)):
        problem = f"has no effect, as {FIELD}= does not list {config.session.get('name')}"
        field = key.partition("=")[0]
        raise BciDecodeError(problem, field=field, remedy="leave it out, or list the session")


def joint_name(config: DictConfig) -> str:
    """What the sessions are called together: the first one and the number of the others."""
    entries = session_entries(config)
    return f"{entries[0].name}_and_{len(entries) - 1}_more"


def with_session(config: DictConfig, entry: Entry) -> DictConfig:
    """The configuration of a single session of the list."""
    one = config.copy()
    one.session = OmegaConf.create(entry.settings)
    return one


def check_once(sums: Mapping[str, str]) -> None:
    """Refuse a recording that two names share, whatever its path: name -> MD5."""
    seen: dict[str, str] = {}
    for name, md5 in sums.items():
        if (other := seen.setdefault(md5, name)) != name:
            problem = f"{other} and {name} are the same recording"
            raise BciDecodeError(problem, field=FIELD, remedy="name it once")


def check_same_target(targets: Mapping[str, tuple[str, str]]) -> None:
    """Refuse sessions that are decoded into different things: name -> (kind, unit) of the series.

    A shared read-out has one meaning and one unit.
    """
    (first, wanted), *others = targets.items()
    for name, found in others:
        if found != wanted:
            raise BciDecodeError(
                f"{first} has {wanted[0]} in {wanted[1]}, {name} has {found[0]} in {found[1]}",
                field=FIELD,
                remedy="train sessions with different targets apart",
            )


def known_sessions() -> list[str]:
    """The names that `session=` takes without a file."""
    from bci_decode.runs.compose import CONF

    files = [path.stem for path in (CONF / GROUP).glob("*.yaml") if path.stem != "local"]
    return sorted({*files, *_source().list(GROUP, ObjectType.CONFIG)})


def _entries(text: str, config: DictConfig) -> list[Entry]:
    """The sessions of one entry of the list."""
    known = known_sessions()
    if text in known:
        return [Entry(text, _known(text, config))]
    if not any(character in text for character in PATTERN):
        if Path(text).suffix.lower() in SUFFIXES or Path(text).name != text:
            return [_of_file(text)]
        near = get_close_matches(text, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise BciDecodeError(
            f"there is no session {text!r}",
            field=FIELD,
            remedy=f"{hint}name a session as session= takes it, or a file",
        )
    names = [name for name in known if fnmatchcase(name, text)]
    if names:
        return [Entry(name, _known(name, config)) for name in names]
    files = sorted(glob.glob(str(expand_user(text))))
    if not files:
        raise BciDecodeError(
            f"nothing matches {text!r}", field=FIELD, remedy="check the pattern and the folder"
        )
    return [_of_file(file) for file in files]


def _of_file(text: str) -> Entry:
    path = expand_user(text)
    if not is_regular(path):
        raise BciDecodeError("is not there", file=path, field=FIELD, remedy="check the path")
    return Entry(path.resolve().stem, {"name": path.resolve().stem, "path": str(path)})


def _known(name: str, config: DictConfig) -> dict[str, Any]:
    """The settings of a named session; those of the chosen `session` as the command sets them."""
    from bci_decode.runs.compose import CONF

    if str(config.session.get("name")) == name:
        node = config.session
    elif (file := CONF / GROUP / f"{name}.yaml").is_file():
        node = OmegaConf.load(file)
    else:
        node = _source().load_config(f"{GROUP}/{name}").config
    one = config.copy()
    one.session = node
    settings = OmegaConf.to_container(one.session, resolve=True)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def _source() -> ProjectConfigs:
    return ProjectConfigs("bci_decode", f"{ProjectConfigs.scheme()}://")
