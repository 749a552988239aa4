"""The keys that a sweep gives several values, as words that name the folders of its runs.

A run's folder names experiment, session, model, target, direction, seed and cut. Other swept keys
become a level of their own, and those of a session become part of the session's name, since two
recordings must not share one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NAMED = (
    "experiment", "session", "session.name", "session.path", "model", "data.target",
    "bidirectional", "seed", "data.split.cut", "output_dir",
    "model.recurrent",  # as a whole: experiments that sweep it name the model after it
)  # fmt: skip


def swept_keys(jobs: Iterable[Sequence[str]]) -> list[str]:
    """The keys with more than one value among the words `key=value` of all jobs, by name."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for word in job:
            key, _, value = word.partition("=")
            values.setdefault(key.lstrip("+"), set()).add(value)
    return sorted(key for key, found in values.items() if len(found) > 1)


def naming_words(jobs: Sequence[Sequence[str]], groups: Iterable[str]) -> list[str]:
    """Words for every job of a sweep that name its folders after the swept keys.

    `groups` are the keys that choose files, optimizer say, whose value is a file's name. A key
    whose value the user put into `output_dir` or `session.name` is named already.
    """
    words = [word for job in jobs for word in job]
    plain = (word.replace("\\", "") for word in words)  # Hydra escapes the braces of ${...}
    own = [word for word in plain if re.match(r"\+*(output_dir|session\.name)=", word)]
    keys = [
        key
        for key in swept_keys(jobs)
        if key not in NAMED and "@" not in key and not any(f"${{{key}}}" in word for word in own)
    ]
    of_session = [key for key in keys if key.startswith("session.")]
    others = [key for key in keys if key not in of_session]
    found = []
    if others:
        values = {key: _value(key, key in set(groups)) for key in others}
        text = ",".join(f"{key}={value}" for key, value in values.items())
        found.append(f"names.swept='{text}'")
    named = any("session.name=" in word for word in own)
    if of_session and not named:
        name = "".join(f"_{key.removeprefix('session.')}${{{key}}}" for key in of_session)
        found.append(f"session.name='${{hydra:runtime.choices.session}}{name}'")
    return found


def _value(key: str, group: bool) -> str:
    return f"${{hydra:runtime.choices.{key}}}" if group else f"${{{key}}}"
