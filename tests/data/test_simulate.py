"""The simulated session: its behavior, its units, and the layout of its file."""

from itertools import pairwise

import h5py
import numpy as np
import pytest
from recordings import read_mat73

from bci_decode.cli import recording_file
from bci_decode.data import catalog
from bci_decode.data.simulate import (
    VERSION,
    simulate_recording,
    simulated_day,
    simulated_days,
    simulated_file,
    simulated_session,
    units_by_day,
    write_recording,
)
from bci_decode.data.simulated_movement import CENTER, movement
from bci_decode.data.simulated_units import SLOW, first_day, next_day
from bci_decode.errors import BciDecodeError


@pytest.fixture(scope="module")
def recording():
    return simulate_recording(seed=3, minutes=1.0, channels=96)


@pytest.fixture(scope="module")
def default_recording():
    return simulate_recording()


@pytest.fixture
def file(tmp_path):
    path = simulated_file(tmp_path / "short.mat", seed=5, minutes=0.5, channels=24, waveforms=True)
    with h5py.File(path) as opened:
        yield opened


def trains(recording):
    return [train for rows in recording.spikes for train in rows if train.size]


def cells(file, name):
    """The payloads of a cell variable, as a list of rows of datasets."""
    return [[file[reference] for reference in row] for row in file[name][()]]


def assert_same(one, other):
    for name in ("t", "cursor_pos", "target_pos", "finger_pos"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.chan_names == other.chan_names
    for rows, others in zip(one.spikes, other.spikes, strict=True):
        for train, copy in zip(rows, others, strict=True):
            np.testing.assert_array_equal(train, copy)


# one seed, one session


def test_the_seed_decides_every_bit():
    settings = {"minutes": 0.3, "channels": 16}
    assert_same(simulate_recording(seed=1, **settings), simulate_recording(seed=1, **settings))
    other = simulate_recording(seed=2, **settings)
    assert not np.array_equal(other.finger_pos, simulate_recording(seed=1, **settings).finger_pos)


def test_equal_settings_give_equal_bytes(tmp_path):
    settings = {"seed": 4, "minutes": 0.2, "channels": 8, "waveforms": True}
    one, other = (simulated_file(tmp_path / name, **settings) for name in ("one.mat", "other.mat"))
    assert one.read_bytes() == other.read_bytes()


def test_waveforms_change_nothing_else():
    settings = {"seed": 4, "minutes": 0.2, "channels": 8}
    assert_same(simulate_recording(**settings), simulate_recording(**settings, waveforms=True))


# behavior


def test_the_clock_runs_at_250_hz_and_does_not_start_at_zero(recording):
    assert recording.t.shape == (15000,)
    np.testing.assert_allclose(np.diff(recording.t), 0.004, atol=1e-9)
    assert recording.t[0] > 100


def test_targets_stand_on_the_grid_and_each_one_differs_from_the_last(default_recording):
    target = default_recording.target_pos
    assert set(target[:, 0]) == {-52.5, -37.5, -22.5, -7.5, 7.5, 22.5, 37.5, 52.5}
    assert set(target[:, 1]) == {7.5, 22.5, 37.5, 52.5, 67.5, 82.5, 97.5, 112.5}
    seconds_per_reach = 7 * 60 / np.count_nonzero(np.diff(target, axis=0).any(1))
    assert 1.0 < seconds_per_reach < 1.6


def test_the_hand_is_at_its_target_when_the_next_one_appears(default_recording):
    changes = np.flatnonzero(np.diff(default_recording.target_pos, axis=0).any(1))
    hand = -10 * default_recording.finger_pos[changes, 1:3]
    misses = np.hypot(*(hand - default_recording.target_pos[changes]).T)
    assert np.median(misses) < 4 and misses.max() < 9


def test_the_finger_is_stored_as_depth_then_minus_x_then_minus_y_in_cm(recording):
    assert recording.finger_pos.shape == (15000, 6)
    assert np.abs(recording.finger_pos[:, 0] + 30).max() < 1.5
    deviation = recording.cursor_pos + 10 * recording.finger_pos[:, 1:3]
    assert 0 < np.abs(deviation).max() < 2.0


def test_the_default_session_moves_like_a_recorded_one(default_recording):
    hand = -10 * default_recording.finger_pos[:, 1:3]
    velocity = np.diff(hand[::16], axis=0) / 0.064
    assert ((velocity.var(0) > 3000) & (velocity.var(0) < 7000)).all()
    speed = np.hypot(*np.gradient(hand, 0.004, axis=0).T)
    assert 0.2 < (speed < 10).mean() < 0.6
    assert np.percentile(speed, 95) > 150


# units


def test_rates_and_rows_are_those_of_a_usual_session(default_recording):
    rates = [train.size / (7 * 60) for train in trains(default_recording)]
    assert 5 < np.mean(rates) < 15
    occupied = [sum(rows[row].size > 0 for rows in default_recording.spikes) for row in range(5)]
    assert all(more > fewer for more, fewer in pairwise(occupied))
    assert occupied[0] > 75 and 2 <= occupied[4] <= 20


@pytest.mark.parametrize("seed", range(4))
def test_some_channels_are_silent(seed):
    recording = simulate_recording(seed=seed, minutes=0.2)
    silent = [not any(train.size for train in rows) for rows in recording.spikes]
    assert 6 <= sum(silent) <= 11


def test_spikes_ascend_and_keep_the_dead_time(recording):
    assert min(np.diff(train).min() for train in trains(recording)) >= 0.002


def test_spikes_reach_beyond_both_ends_of_the_clock(recording):
    spikes = np.concatenate(trains(recording))
    for beyond in (recording.t[0] - spikes, spikes - recording.t[-1]):
        assert (beyond > 0).sum() > 100
        assert 3 < beyond.max() < 5


def test_activity_leads_the_hand_by_up_to_160_ms(default_recording):
    t = default_recording.t
    speed = np.hypot(*np.gradient(-10 * default_recording.finger_pos[:, 1:3], 0.004, axis=0).T)
    counts = np.histogram(np.concatenate(trains(default_recording)), np.append(t, t[-1] + 0.004))[0]
    lags = np.arange(-100, 101)  # samples by which the hand follows
    inner = slice(100, -100)
    agreement = [np.corrcoef(counts[inner], np.roll(speed, -lag)[inner])[0, 1] for lag in lags]
    assert 0.0 < 0.004 * lags[np.argmax(agreement)] < 0.16


def test_192_channels_are_96_of_each_area():
    recording = simulate_recording(seed=1, minutes=0.1, channels=192)
    names = recording.chan_names
    assert [names[0], names[95], names[96], names[191]] == ["M1 001", "M1 096", "S1 001", "S1 096"]
    live = [any(train.size for train in rows) for rows in recording.spikes]
    assert len(live) == 192
    assert sum(live[:96]) > 70 and sum(live[96:]) > 70


# the file


def test_the_userblock_is_matlabs(file):
    with open(file.filename, "rb") as raw:
        block = raw.read(520)
    assert file.userblock_size == 512
    assert block.startswith(b"MATLAB 7.3 MAT-file")
    assert block[124:128] == b"\x00\x02IM"
    assert block[512:] == b"\x89HDF\r\n\x1a\n"


def test_variables_have_the_shapes_and_classes_of_a_recording(file):
    found = {
        name: (file[name].shape, bytes(file[name].attrs["MATLAB_class"]))
        for name in file
        if name != "#refs#"
    }
    assert found == {
        "t": ((1, 7500), b"double"),
        "cursor_pos": ((2, 7500), b"double"),
        "target_pos": ((2, 7500), b"double"),
        "finger_pos": ((6, 7500), b"double"),
        "chan_names": ((1, 24), b"cell"),
        "spikes": ((5, 24), b"cell"),
        "wf": ((5, 24), b"cell"),
    }
    assert all(
        file[name].dtype == np.float64 for name in ("t", "cursor_pos", "target_pos", "finger_pos")
    )


def test_spike_cells_are_rows_of_doubles_and_empties_hold_their_dimensions(file):
    recording = simulate_recording(seed=5, minutes=0.5, channels=24)
    for row, datasets in enumerate(cells(file, "spikes")):
        for channel, dataset in enumerate(datasets):
            train = recording.spikes[channel][row]
            assert dataset.name.startswith("/#refs#/")
            assert bytes(dataset.attrs["MATLAB_class"]) == b"double"
            if train.size:
                assert "MATLAB_empty" not in dataset.attrs
                assert dataset.dtype == np.float64
                np.testing.assert_array_equal(dataset[()], train[None])
            else:
                assert dataset.attrs["MATLAB_empty"] == 1
                assert (dataset.shape, dataset.dtype) == ((2,), np.uint64)


def test_every_unit_has_a_waveform_per_spike(file):
    for spikes, waveforms in zip(cells(file, "spikes"), cells(file, "wf"), strict=True):
        for train, snippets in zip(spikes, waveforms, strict=True):
            assert bytes(snippets.attrs["MATLAB_class"]) == b"single"
            if "MATLAB_empty" in train.attrs:
                assert snippets.attrs["MATLAB_empty"] == 1
            else:
                assert snippets.dtype == np.float32
                assert snippets.shape == (48, train.shape[1])


def test_without_waveforms_their_cells_are_empty(tmp_path):
    path = simulated_file(tmp_path / "plain.mat", seed=5, minutes=0.1, channels=4)
    with h5py.File(path) as file:
        assert all(d.attrs["MATLAB_empty"] == 1 for row in cells(file, "wf") for d in row)


def test_channel_names_are_columns_of_characters(file):
    (names,) = cells(file, "chan_names")
    assert all((name.shape, name.dtype) == ((6, 1), np.uint16) for name in names)
    assert all(
        name.attrs["MATLAB_int_decode"] == 2 and name.attrs["MATLAB_class"] == b"char"
        for name in names
    )
    assert "".join(chr(code) for code in names[23][:, 0]) == "M1 024"


def test_a_reader_of_other_hands_reads_the_file(file):
    content = read_mat73(file.filename)
    assert content["t"].shape == (7500, 1)
    assert content["spikes"].shape == (24, 5)
    assert content["chan_names"].shape == (24, 1)


# making it once

# by version: spikes, mean time, mean finger z and y
GOLDEN = {1: (12954, 2757.531, -29.789373, -5.198476)}


def test_other_numbers_need_another_version(tmp_path):
    """The file is kept between calls, so its name must change with its numbers."""
    recording = simulate_recording(seed=5, minutes=0.3, channels=24)
    count, mean, depth, y = GOLDEN[VERSION]
    times = np.concatenate(trains(recording))
    assert len(times) == pytest.approx(count, abs=2)  # processors differ in a last bit
    assert times.mean() == pytest.approx(mean, abs=1e-2)
    assert recording.finger_pos[:, [0, 2]].mean(0) == pytest.approx([depth, y], abs=1e-6)
    path = simulated_session(tmp_path, seed=5, minutes=0.3, channels=2)
    assert path.name == f"simulated_v{VERSION}_seed5_0.3min_2ch.mat"


def test_a_second_call_leaves_the_file_untouched(tmp_path):
    path = simulated_file(tmp_path / "deep" / "once.mat", seed=1, minutes=0.1, channels=4)
    before = (path.stat().st_mtime_ns, path.read_bytes())
    assert simulated_file(path, seed=2, minutes=0.2, channels=4) == path
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


def test_a_finished_file_is_alone_in_its_folder_and_announced(tmp_path, caplog):
    with caplog.at_level("INFO", logger="bci_decode.data.simulate"):
        path = simulated_file(tmp_path / "one.mat", seed=1, minutes=0.1, channels=4)
        simulated_file(path, seed=1, minutes=0.1, channels=4)
    assert list(tmp_path.iterdir()) == [path]
    assert len(caplog.records) == 1 and str(path) in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("minutes", 0),
        ("minutes", -7.0),
        ("minutes", float("nan")),
        ("minutes", float("inf")),
        ("minutes", "seven"),
        ("channels", 0),
        ("channels", 193),
        ("channels", 96.0),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_a_bad_setting_is_named_with_its_remedy(tmp_path, key, value):
    settings = {"seed": 0, "minutes": 0.1, "channels": 4} | {key: value}
    with pytest.raises(BciDecodeError, match=rf"session\.{key}.*{value!r}.*give a .*number from"):
        simulated_file(tmp_path / "bad.mat", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_a_mistake_not_a_traceback(tmp_path):
    blocking = tmp_path / "a_file"
    blocking.write_text("")
    recording = simulate_recording(minutes=0.1, channels=2)
    with pytest.raises(BciDecodeError, match="cannot be written"):
        write_recording(blocking / "below.mat", recording)


# later days


@pytest.fixture(scope="module")
def days():
    return [simulate_recording(seed=2, minutes=0.3, channels=12, day=day) for day in range(2)]


def test_another_day_has_its_own_movement_and_the_same_channels(days):
    first, second = days
    assert first.chan_names == second.chan_names
    assert not np.array_equal(first.finger_pos, second.finger_pos)
    again = simulate_recording(seed=2, minutes=0.3, channels=12, day=1)
    assert_same(second, again)


def test_day_0_has_the_numbers_of_before_there_were_days():
    """Tuning and spikes are drawn in turn: what is drawn for one unit moves all later ones."""
    default = simulate_recording(seed=0, minutes=0.4, channels=192)
    assert_same(default, simulate_recording(seed=0, minutes=0.4, channels=192, day=0))
    counts = [len(train) for train in trains(default)]
    assert len(counts) == 486 and sum(counts) == 121686
    assert counts[-5:] == [243, 230, 73, 42, 102]


def test_two_of_three_units_keep_their_neuron_and_some_labels_change():
    rng = np.random.default_rng(0)
    names = [f"M1 {channel + 1:03d}" for channel in range(96)]
    clock, _, drive = movement(rng, 3000)
    before, _ = first_day(rng, clock, drive, names)
    after = next_day(rng, before, drive, names)
    assert len(after) == len(before)
    kept = [cell for cell in before if cell in after and after[cell].is_neuron_of(before[cell])]
    assert 0.57 < len(kept) / len(before) < 0.77
    gone, new = before.keys() - after.keys(), after.keys() - before.keys()
    assert len(gone) == len(new) > 0.05 * len(before)
    assert all(1 <= row < 5 for _, row in new)
    turned = [after[cell].direction - before[cell].direction for cell in kept]
    assert 0.1 < np.std(turned) < 0.2  # radians
    changed = np.log([after[cell].rate / before[cell].rate for cell in kept])
    assert 0.15 < np.std(changed) < 0.25


@pytest.mark.parametrize(
    ("day", "units", "spikes"), [(1, 70, 13103), (2, 70, 14296), (3, 70, 15321)]
)
def test_later_days_of_an_array_have_the_numbers_of_before_they_could_be_slow(day, units, spikes):
    recording = simulate_recording(seed=2, minutes=0.3, channels=24, day=day)
    counts = [len(train) for train in trains(recording)]
    assert len(counts) == units
    assert sum(counts) == pytest.approx(spikes, abs=2)  # processors differ in a last bit


def test_a_later_day_has_a_file_of_its_own(tmp_path):
    settings = {"seed": 4, "minutes": 0.2, "channels": 4}
    first = simulated_session(tmp_path, **settings)
    second = simulated_session(tmp_path, **settings, day=1)
    assert second.name == first.stem + "_day1.mat"
    assert first.read_bytes() != second.read_bytes()
    with pytest.raises(BciDecodeError, match=r"session\.day.*-1.*give a whole number from 0"):
        simulated_session(tmp_path, **settings, day=-1)


# slow days


@pytest.fixture(scope="module")
def slow_units():
    return units_by_day(12, seed=0, minutes=0.2, channels=96)


def kept(before, after):
    """The cells that hold the same neuron on two days."""
    return [cell for cell in before if cell in after and after[cell].is_neuron_of(before[cell])]


def test_about_one_unit_in_seventeen_is_gone_and_as_many_are_new_every_day(slow_units):
    lost, found = [], []
    for before, after in pairwise(slow_units):
        lost.append(1 - len(kept(before, after)) / len(before))
        found.append(1 - len(kept(before, after)) / len(after))
    assert 0.045 < np.mean(lost) < 0.075 and 0.045 < np.mean(found) < 0.075
    assert 0.4 < len(kept(slow_units[0], slow_units[-1])) / len(slow_units[0]) < 0.6
    assert all(cell in slow_units[0] for cell in kept(slow_units[0], slow_units[-1]))


def test_neurons_that_stay_turn_together_and_change_a_little(slow_units):
    for before, after in pairwise(slow_units):
        stay = kept(before, after)
        turned = np.degrees([after[cell].direction - before[cell].direction for cell in stay])
        assert 2 < np.mean(turned) < 4 and 3.5 < np.std(turned) < 6
        rates = np.log([after[cell].rate / before[cell].rate for cell in stay])
        assert abs(np.mean(rates)) < 0.04 and 0.12 < np.std(rates) < 0.18
        depths = np.log([after[cell].velocity / before[cell].velocity for cell in stay])
        assert 0.08 < np.std(depths) < 0.12


def test_a_recording_of_a_later_day_has_the_units_of_that_day():
    settings = {"seed": 3, "minutes": 0.3, "channels": 8}
    fourth = units_by_day(4, **settings)[3]
    recording = simulate_recording(**settings, day=3, change=SLOW)
    occupied = {(c, r) for c, rows in enumerate(recording.spikes) for r in range(5) if len(rows[r])}
    assert occupied == set(fourth)


def test_an_array_of_one_unit_never_falls_silent():
    rng = np.random.default_rng(0)
    clock, _, drive = movement(rng, 500)
    units, _ = first_day(rng, clock, drive, ["M1 001"])
    for _ in range(60):
        units = next_day(rng, units, drive, ["M1 001"], SLOW)
        assert 1 <= len(units) <= 5


def preferred_directions(recording):
    """Of every cell, from spikes and hand alone: the vector of its regression on velocity."""
    hand = -10 * recording.finger_pos[:, 1:3]
    velocity = np.gradient(hand, 0.004, axis=0)[8::16] @ [1, 1j]
    velocity *= np.exp(-1.3j * (hand[8::16, 0] - CENTER[0]) / 35)  # directions turn with posture
    design = np.column_stack([velocity.real, velocity.imag, abs(velocity), np.ones(len(velocity))])
    edges = np.append(recording.t[::16], recording.t[-1])[: len(velocity) + 1]
    cells = [train for rows in recording.spikes for train in rows]
    counts = np.column_stack([np.diff(np.searchsorted(train, edges)) for train in cells])
    weights = np.linalg.lstsq(design[1:], counts[:-1], rcond=None)[0]  # they lead the hand
    return weights[0] + 1j * weights[1]


def test_the_common_rotation_shows_in_spikes_and_hand():
    settings = {"seed": 1, "minutes": 1.0, "channels": 96, "change": SLOW}
    one, later = (preferred_directions(simulate_recording(**settings, day=day)) for day in (0, 9))
    products = later * np.conj(one)  # 0 where there is no unit
    assert 17 < np.degrees(np.angle(products.sum())) < 37, "nine days of three degrees"


def test_day_1_is_the_simulated_session_itself_and_every_day_has_a_file(tmp_path):
    settings = {"seed": 4, "minutes": 0.2, "channels": 4}
    days = simulated_days(tmp_path, 3, **settings)
    assert days[0] == simulated_session(tmp_path, **settings)
    assert [path.name for path in days[1:]] == [
        f"{days[0].stem}_slow_day02.mat",
        f"{days[0].stem}_slow_day03.mat",
    ]
    contents = {
        path.read_bytes() for path in [*days, simulated_session(tmp_path, **settings, day=1)]
    }
    assert len(contents) == 4
    with pytest.raises(BciDecodeError, match=r"session\.day.*0.*give a whole number from 1"):
        simulated_day(tmp_path, **settings, day=0)


def test_commands_know_a_simulated_day_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setitem(catalog.SIMULATED_ARRAY, "minutes", 0.1)
    made = recording_file("simulated_day03", str(tmp_path))
    assert made == simulated_days(tmp_path, 3, minutes=0.1)[2]
    assert made.is_file()
