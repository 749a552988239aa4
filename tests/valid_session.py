"""What every session that is read must satisfy, whatever file it comes from."""

from __future__ import annotations

import numpy as np

from bci_decode.data.series import MAX_POSITION, MAX_VALUE
from bci_decode.data.session import MAX_STEP, Session, area_of, sources


def check_session(session: Session) -> None:
    """Assert the invariants that `Session` and `read_session` promise."""
    t, units = session.t, session.units
    assert t.dtype == np.float64 and t.ndim == 1 and len(t) >= 2
    assert np.isfinite(t).all() and (np.diff(t) > 0).all()
    assert np.median(np.diff(t)) <= MAX_STEP
    assert sources(session)
    for series in session.series.values():
        values = series.values
        assert values.dtype == np.float64 and values.shape in ((len(t), 2), (len(t), 3))
        assert values.flags.c_contiguous
        limit = MAX_POSITION if series.unit is None else MAX_VALUE
        assert (np.abs(values[np.isfinite(values)]) <= limit).all()
    assert all(isinstance(name, str) and name.isprintable() for name in session.channels)
    assert list(units.columns) == ["channel", "area", "row", "spikes"]
    assert len(units) == len(session.spike_times)
    assert units["channel"].isin(session.channels).all()
    assert list(units["area"]) == [area_of(channel) for channel in units["channel"]]
    assert (units["row"] >= 0).all()
    for times, inside in zip(session.spike_times, units["spikes"], strict=True):
        assert times.dtype == np.float64 and times.ndim == 1 and len(times)
        assert np.isfinite(times).all()
        assert inside == np.count_nonzero((times >= t[0]) & (times <= t[-1]))
