"""FALCON's interface: each row of a batch is a stream of its own."""

from __future__ import annotations

import numpy as np
import pytest
from live import BIN, counts_for, trained, with_data

from bci_decode.data.counts import trailing_sums
from bci_decode.errors import BciDecodeError
from bci_decode.realtime.decoder import StreamingDecoder
from bci_decode.realtime.interfaces.falcon import FalconDecoder
from bci_decode.runs.loaded_run import LoadedRun


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> LoadedRun:
    return trained(tmp_path_factory.mktemp("falcon"), "wiener")


def alone(run: LoadedRun, counts: np.ndarray) -> np.ndarray:
    return StreamingDecoder(run).predict(counts)


def test_each_row_is_decoded_as_it_would_be_alone(run):
    streams = [counts_for(run, 12, seed) for seed in range(3)]
    decoder = FalconDecoder(run.folder, batch_size=3)
    decoder.reset(["a", "b", "c"])
    found = []
    for number, rows in enumerate(zip(*streams, strict=True)):
        found.append(decoder.predict(np.stack(rows)))
        decoder.on_done(np.array([number == 4, 0, 1]))
    assert found[0].shape == (3, 2)
    for stream, decoded in zip(streams, np.swapaxes(found, 0, 1), strict=True):
        np.testing.assert_array_equal(decoded, alone(run, stream))


def test_observed_bins_count_and_a_flat_row_is_a_batch_of_one(run):
    counts = counts_for(run, 9)
    decoder = FalconDecoder(run)
    decoder.reset()
    for bin_ in counts[:8]:
        assert decoder.observe(bin_[None]) is None
    np.testing.assert_array_equal(decoder.predict(counts[8])[0], alone(run, counts)[8])


def test_reset_begins_the_streams_whose_file_is_another(run):
    counts = counts_for(run, 10)
    decoder = FalconDecoder(run, batch_size=2)
    decoder.reset(["a", "b"])
    for bin_ in counts[:6]:
        decoder.predict(np.stack([bin_, bin_]))
    decoder.reset(["a", "c"])
    goes_on, begins = decoder.predict(np.stack([counts[6], counts[6]]))
    np.testing.assert_array_equal(goes_on, alone(run, counts)[6])
    np.testing.assert_array_equal(begins, alone(run, counts[6:])[0])
    decoder.reset(["a", "c"])  # the same files again
    for row in decoder.predict(np.stack([counts[0], counts[0]])):
        np.testing.assert_array_equal(row, alone(run, counts)[0])


def test_counts_are_summed_over_the_window_of_the_run(run, tmp_path):
    counts = counts_for(run, 8)
    decoder = FalconDecoder(with_data(run, tmp_path / "run", count_window=3 * BIN))
    expected = alone(run, trailing_sums(counts, 3))
    for _ in range(2):  # the same file again: nothing is left of the first time
        decoder.reset(["a"])
        found = [decoder.predict(bin_)[0] for bin_ in counts]
        np.testing.assert_array_equal(found, expected)


def test_wrong_sizes_are_refused(run):
    decoder = FalconDecoder(run, batch_size=2)
    with pytest.raises(BciDecodeError, match="^dataset_tags: has 3 entries for 2 streams"):
        decoder.reset(["a", "b", "c"])
    with pytest.raises(BciDecodeError, match="have 1 rows for 2 streams"):
        decoder.predict(counts_for(run, 1))
    with pytest.raises(BciDecodeError, match="counts: have shape"):
        decoder.predict(np.zeros((2, 3)))
    with pytest.raises(BciDecodeError, match="^batch_size: is 0"):
        FalconDecoder(run, batch_size=0)
