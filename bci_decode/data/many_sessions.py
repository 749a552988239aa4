"""Sessions that one decoder learns from: each prepared by itself, its bins on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bci_decode.config import DataConfig
from bci_decode.data.binned_store import StoredSession, stored_session
from bci_decode.data.dataset import Preparation, preparation
from bci_decode.data.parts import Window


@dataclass(frozen=True, eq=False)
class PreparedSession:
    """A session of many: where its bins are stored, and what is fitted to them."""

    stored: StoredSession
    prepared: Preparation

    @property
    def name(self) -> str:
        return self.stored.binned.name


@dataclass(frozen=True, eq=False)
class ManySessions:
    """Sessions in the order of their read-ins; no counts are in memory.

    `parts` names the parts that all of them have.
    """

    sessions: tuple[PreparedSession, ...]
    axes: tuple[str, ...] = ("x", "y")

    @property
    def window(self) -> Window:
        return self.sessions[0].prepared.window

    @property
    def parts(self) -> dict[str, slice]:
        return self.sessions[0].prepared.slices


def prepare_many(
    recordings: Sequence[tuple[str, Path]], config: DataConfig, store: Path
) -> ManySessions:
    """Bin and prepare recordings (name, file), one at a time."""
    sessions = []
    for name, path in recordings:
        stored = stored_session(path, name, config, store)
        sessions.append(PreparedSession(stored, preparation(stored.binned, config)))
    return ManySessions(tuple(sessions))
