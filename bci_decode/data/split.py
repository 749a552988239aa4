"""Split a session in time into named slices of its bins."""

from __future__ import annotations

import itertools
import math

from bci_decode.config import SplitConfig
from bci_decode.errors import BciDecodeError

Slices = dict[str, slice]


def split_in_time(bins: int, bin_width: float, config: SplitConfig, window_length: int) -> Slices:
    """Bins of the training, validation and test parts, in this order and `gap` seconds apart.

    With `first_bins` those are the training part, their last `val` share is the validation part,
    and the rest is the test part. With `cuts` the test part is block `cut` of as many blocks at the
    session's end: see `chained_block`. Otherwise `train` and `val` are shares of all bins. With
    `val_from_test` "val" and "holdout" are slices of the test part: its beginning, which may select
    an epoch, and its end, on which nothing is selected. Raises `BciDecodeError` naming the key to
    change where a part would not hold a window.
    """
    gap = math.ceil(config.gap / bin_width - 1e-9)
    test_end = bins
    if config.cuts is not None:
        test = chained_block(bins, config)
        val_end, test_end = test.start - gap, test.stop
        train_end = val_end - round(test.start * config.val)
    elif config.first_bins is None:
        if config.train == 0 or config.train + config.val >= 1:
            raise BciDecodeError(
                f"are {config.train} and {config.val}",
                field="data.split.train, val",
                remedy="choose fractions with a sum below 1",
            )
        train_end, val_end = round(bins * config.train), round(bins * (config.train + config.val))
    else:
        val_end = config.first_bins
        train_end = val_end - round(val_end * config.val)
    return parts_between(train_end, val_end, test_end, gap, config, window_length, bins)


def parts_between(
    train_end: int,
    val_end: int,
    test_end: int,
    gap: int,
    config: SplitConfig,
    window_length: int,
    bins: int | None = None,
) -> Slices:
    """The parts that end at these bins, `gap` bins apart; each must hold a window.

    `bins` are all of the session, if the test part does not end with it.
    """
    slices = {
        "train": slice(0, train_end),
        "val": slice(train_end + gap, val_end),
        "test": slice(val_end + gap, test_end),
    }
    if config.val == 0:
        del slices["val"]
    _check_lengths(bins or test_end, slices, config, window_length)
    return slices | _slices_of_test(slices["test"], config, window_length, gap)


def chained_block(bins: int, config: SplitConfig) -> slice:
    """The block of bins that `config.cut` is scored on; a run learns only from bins before it.

    The `cuts` blocks hold round(block * bins) bins each, touch each other and end with the session.
    A gap shortens what is learned from, never a block.
    """
    if config.cuts is None or config.cut is None:
        raise BciDecodeError(
            "is null, which means several splits",
            field="data.split.cut",
            remedy="choose one cut, from 0",
        )
    size = round(config.block * bins)
    start = bins - (config.cuts - config.cut) * size
    return slice(start, start + size)


def _slices_of_test(test: slice, config: SplitConfig, window_length: int, gap: int) -> Slices:
    """ "val" and "holdout", `gap` bins and a window apart, so that no window sees both."""
    share, field = config.val_from_test, "data.split.val_from_test"
    if share == 0:
        return {}
    if config.val:
        raise BciDecodeError(
            f"is {share} beside data.split.val={config.val}",
            field=field,
            remedy="validate on one of the two, set 0 for the other",
        )
    bins, between = test.stop - test.start, max(window_length, gap)
    val_end = test.start + round(bins * share)
    holdout_start = val_end + between
    need = max(window_length, 2)
    if min(val_end - test.start, test.stop - holdout_start) < need:
        raise BciDecodeError(
            f"is {share} of a test part of {bins} bins, which leaves {val_end - test.start} "
            f"to select on and {max(test.stop - holdout_start, 0)} to score; each needs {need}",
            field=field,
            remedy="change it, or data.split.first_bins so that the test part has "
            f"{_min_test_bins(share, need, between)} bins; 0 does without the holdout score",
        )
    return {"val": slice(test.start, val_end), "holdout": slice(holdout_start, test.stop)}


def _min_test_bins(share: float, need: int, between: int) -> int:
    """The fewest bins of a test part whose two slices hold `need` bins each."""

    def fits(bins: int) -> bool:
        val = round(bins * share)
        return min(val, bins - val - between) >= need

    lowest = int(max((need - 0.5) / share, (need + between - 0.5) / (1 - share)))
    return next(bins for bins in itertools.count(lowest) if fits(bins))


def _check_lengths(bins: int, slices: Slices, config: SplitConfig, window_length: int) -> None:
    """Every part must hold a window.

    The test part too, since a live decoder needs as much to be scored fairly.
    """
    need = max(window_length, 2)
    lengths = {name: max(part.stop - part.start, 0) for name, part in slices.items()}
    short = [name for name in lengths if lengths[name] < need]
    if not short:
        return
    keys, enough = "data.split.train, data.split.val or data.split.gap", f"{need} for each part"
    if config.first_bins is not None:
        keys = keys.replace("train", "first_bins", 1)
        if short == ["test"]:
            share, between = (
                config.val_from_test,
                max(window_length, slices["test"].start - config.first_bins),
            )
            rest = _min_test_bins(share, need, between) if share else need
            keys = "data.split.first_bins"
            enough = f"{slices['test'].start + rest}, {rest} of them for the test part"
    left = ", ".join(f"{lengths[name]} for {name}" for name in short)
    if config.cuts is not None:
        keys = "data.split.cuts, data.split.block, data.split.val or data.split.gap"
        left += f" of cut {config.cut} of {config.cuts}"
    raise BciDecodeError(
        f"the session has {bins} bins, that leaves {left}, but it takes {enough}",
        remedy=f"change {keys}, or data.window.length (now {window_length})",
    )


def enclosing(slices: Slices) -> dict[str, str]:
    """The slices that lie inside another one, each with the other's name: {"val": "test"}."""
    return {
        name: other
        for name, inner in slices.items()
        for other, outer in slices.items()
        if name != other and outer.start <= inner.start and inner.stop <= outer.stop
    }
