"""Forward-chained splits: the blocks written out, and what is refused."""

from __future__ import annotations

import pytest

from bci_decode.config import SplitConfig
from bci_decode.data.split import split_in_time
from bci_decode.errors import BciDecodeError


def split(bins=5000, width=0.1, window=4, **keys):
    config = SplitConfig(**{"val": 0.0, "gap": 0.0, "cuts": 3} | keys)
    found = split_in_time(bins, width, config, window)
    return {name: (part.start, part.stop) for name, part in found.items()}


@pytest.mark.parametrize(
    ("cut", "start", "stop"), [(0, 3200, 3800), (1, 3800, 4400), (2, 4400, 5000)]
)
def test_each_cut_trains_on_all_before_its_block(cut, start, stop):
    assert split(cut=cut) == {"train": (0, start), "test": (start, stop)}


def test_validation_is_a_share_of_the_bins_before_the_cut():
    assert split(cut=0, val=0.1) == {"train": (0, 2880), "val": (2880, 3200), "test": (3200, 3800)}


def test_a_gap_shortens_what_is_learned_from_and_no_block():
    assert split(cut=0, val=0.1, gap=0.5) == {
        "train": (0, 2875),
        "val": (2880, 3195),
        "test": (3200, 3800),
    }


def test_blocks_are_whole_bins_that_end_with_the_session():
    blocks = [split(bins=1003, cuts=4, cut=cut, block=0.1)["test"] for cut in range(4)]
    assert blocks == [(603, 703), (703, 803), (803, 903), (903, 1003)]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"cuts": 9, "cut": 0}, "leaves 0 for train of cut 0 of 9.*data.split.cuts, data.split.bl"),
        ({"cut": 0, "block": 0.0001}, "leaves 0 for test of cut 0 of 3"),
        ({"cut": 0, "val": 0.999}, "leaves 3 for train of cut 0 of 3"),
        ({}, "data.split.cut: is null"),
        ({"cut": 3}, "data.split.cut: is 3 of 3 cuts; choose 0 to 2"),
        ({"cut": -1}, "data.split.cut: is -1"),
        ({"cuts": 0}, "data.split.cuts: is 0"),
        ({"cut": 0, "block": 1.0}, "data.split.block: is 1.0"),
        ({"cut": 0, "first_bins": 100}, "data.split.first_bins: is set beside data.split.cuts"),
        ({"cut": 0, "by": "reaches"}, "by: is reaches beside data.split.cuts; choose.*by=time"),
        ({"cuts": None, "cut": 1}, "data.split.cut: is for chained splits; add data.split=chained"),
    ],
)
def test_what_cannot_be_split_names_its_key(keys, words):
    with pytest.raises(BciDecodeError, match=words):
        split(**keys)
