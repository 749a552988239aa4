"""Inspection of files that other software wrote, and the command that prints it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from recordings import ROOT, recording, write_mat73

from bci_decode.data.figures import draw_session, session_figure
from bci_decode.data.inspection import inspect, report_text
from bci_decode.data.session import read_session
from bci_decode.data.simulate import simulated_file, simulated_session

SCRIPT = ROOT / "scripts" / "inspect_session.py"
# the fewest samples that leave the source study 500 bins to test on
START, SAMPLES = 4644.642, 88001


def sound() -> dict[str, np.ndarray]:
    """A recording without a fault: five of six channels are live, hash at 5 Hz, sorted at 10 Hz."""
    return recording(channels=6, rows=2, samples=SAMPLES)


def inside(*counts: int) -> np.ndarray:
    """As many spikes, evenly spread, in each of as many equal parts of the recording."""
    edges = START + 0.004 * (SAMPLES - 1) * np.arange(len(counts) + 1) / len(counts)
    return np.concatenate(
        [
            a + (b - a) * (np.arange(n) + 0.5) / n
            for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]
    )


def warned(tmp_path: Path, variables: dict[str, np.ndarray]) -> list[str]:
    return inspect(read_session(write_mat73(tmp_path / "some.mat", variables))).warnings


def clocked(variables, step):
    spikes = variables["spikes"]
    for cell in np.ndindex(spikes.shape):
        spikes[cell] = START + (spikes[cell] - START) * step / 0.004
    variables["t"] = START + (variables["t"] - START) * step / 0.004


def paused(variables, seconds):
    variables["t"][40000:] += seconds


def cut(variables, samples):
    for name in ("t", "cursor_pos", "target_pos", "finger_pos"):
        variables[name] = variables[name][:samples]


def silenced(variables, channels):
    variables["spikes"][:channels] = np.empty((channels, 2), dtype=object)
    for cell in np.ndindex(channels, 2):
        variables["spikes"][cell] = np.zeros((0, 0))


def left_sorted(variables, units):
    for channel in range(units, 6):
        variables["spikes"][channel, 1] = np.zeros((0, 0))


def put(variables, cell, times):
    variables["spikes"][cell] = np.asarray(times)[:, None]


def early(variables, count):
    put(
        variables,
        (0, 0),
        np.append(np.linspace(START - 50, START - 1, count), variables["spikes"][0, 0]),
    )


def followed(variables, row, one_in, after):
    """One in so many spikes is followed by another."""
    times = inside(3000)
    put(variables, (2, row), np.sort(np.append(times, times[::one_in] + after)))


def missing(variables, *names, value=np.nan):
    for name in names:
        variables[name][1000:1025, 1] = value


def lagging(variables, samples):
    variables["cursor_pos"] = np.roll(variables["cursor_pos"], samples, axis=0)


def at_rest(variables, seconds):
    rest = slice(25000, 25000 + round(seconds / 0.004))
    for name in ("finger_pos", "cursor_pos"):
        variables[name][rest] = variables[name][25000]


def standing(variables, *names, value=1.0):
    for name in names:
        variables[name][:, 1] = value


# For each fault: the change that makes it, its warning, and a change too small for a warning.
WARNINGS = {
    "gap": (
        lambda v: paused(v, 0.5),
        "t has 1 gap, 0.504 s at t = 4804.638 s; gaps of more than 0.1 s are left out of "
        "training and scores, across others positions are interpolated",
        lambda v: paused(v, 0.0015),
    ),
    "short": (
        lambda v: cut(v, SAMPLES - 1),
        "5499 bins of 64 ms are too few for experiment=source_study, which trains on the first "
        "5000; add data.split.first_bins=4300",
        lambda v: cut(v, SAMPLES),
    ),
    "silent": (
        lambda v: silenced(v, 1),
        "2 of 6 channels are silent; expect lower scores than from a complete array, and fetch "
        "the file again if it should be complete",
        lambda v: silenced(v, 0),
    ),
    "no unit": (
        lambda v: silenced(v, 6),
        "no channel has spikes, so there is nothing to decode; check the variable spikes",
        lambda v: silenced(v, 0),
    ),
    "unsorted": (
        lambda v: left_sorted(v, 0),
        "no unit is sorted; data.units=sorted would leave none, keep data.units=all",
        lambda v: left_sorted(v, 1),
    ),
    "outside": (
        lambda v: early(v, 2000),
        "7% of the spikes lie outside t (2072 before, 69 after) and are left out; check that both"
        " have the same clock",
        lambda v: early(v, 1000),
    ),
    "doubled, sorted": (
        lambda v: followed(v, row=1, one_in=50, after=0.0004),
        "over 1% of the intervals are impossible (below 0.5 ms; in hash: 0 ms) in 1 unit (M1 003 "
        "row 1); spikes may be listed twice: remove the copies, or leave out hash with "
        "data.units=sorted",
        lambda v: followed(v, row=1, one_in=200, after=0.0004),
    ),
    "doubled, hash": (
        lambda v: followed(v, row=0, one_in=50, after=0.0),
        "over 1% of the intervals are impossible (below 0.5 ms; in hash: 0 ms) in 1 unit (M1 003 "
        "row 0); spikes may be listed twice: remove the copies, or leave out hash with "
        "data.units=sorted",
        lambda v: followed(v, row=0, one_in=50, after=0.0004),
    ),
    "slow": (
        lambda v: put(v, (1, 1), inside(175)),
        "1 unit below 0.5 Hz (M1 002 row 1); leave out with data.min_rate=0.5",
        lambda v: put(v, (1, 1), inside(177)),
    ),
    "fast": (
        lambda v: put(v, (1, 0), inside(352 * 201)),
        "1 unit above 200 Hz (M1 002 row 0), more likely noise than neurons; look at --figure, "
        "and at data.units=sorted if they are hash (row 0)",
        lambda v: put(v, (1, 0), inside(352 * 199)),
    ),
    "drifting": (
        lambda v: put(v, (4, 1), inside(81, 60, 60, 60, 20)),
        "1 unit with a rate that changes more than fourfold from the first to the last fifth (M1 "
        "005 row 1); the test part comes last: data.units=merged is less sensitive to it",
        lambda v: put(v, (4, 1), inside(80, 60, 60, 60, 20)),
    ),
    "finger missing": (
        lambda v: missing(v, "finger_pos"),
        "finger_pos is NaN or Inf at 25 samples in 1 stretch, 0.100 s at t = 4648.642 s; with "
        "data.source=finger_pos they are left out of training and scores: use "
        "data.source=cursor_pos",
        lambda v: missing(v, "target_pos"),
    ),
    "cursor missing": (
        lambda v: missing(v, "cursor_pos", value=np.inf),
        "cursor_pos is NaN or Inf at 25 samples in 1 stretch, 0.100 s at t = 4648.642 s; with "
        "data.source=cursor_pos they are left out of training and scores: keep "
        "data.source=finger_pos",
        lambda v: missing(v, "target_pos", value=np.inf),
    ),
    "finger standing": (
        lambda v: standing(v, "finger_pos"),
        "finger_pos never moves along x; use data.source=cursor_pos",
        lambda v: standing(v, "target_pos"),
    ),
    "finger and cursor": (
        lambda v: lagging(v, 9),
        "finger and cursor disagree (correlation x 0.987, y 0.987); look at --figure and choose "
        "data.source=finger_pos or data.source=cursor_pos",
        lambda v: lagging(v, 7),
    ),
    "rest": (
        lambda v: at_rest(v, 11),
        "the hand rests for more than 10 s 1 time, 10.532 s at t = 4744.858 s; scores of rest say"
        " little about reaches: cut it out",
        lambda v: at_rest(v, 10),
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_each_fault_has_its_warning(tmp_path, case):
    spoil, sentence, _ = WARNINGS[case]
    variables = sound()
    spoil(variables)
    assert warned(tmp_path, variables) == [sentence]


@pytest.mark.parametrize("case", WARNINGS)
def test_no_warning_short_of_it(tmp_path, case):
    variables = sound()
    WARNINGS[case][2](variables)
    assert warned(tmp_path, variables) == []


@pytest.mark.parametrize("hz", [30, 50, 1000, 2000])
def test_no_warning_of_the_clocks_and_lengths_of_other_laboratories(tmp_path, hz):
    variables = sound()
    clocked(variables, 1 / hz)
    cut(variables, 20000)
    texts = warned(tmp_path, variables)
    assert not [text for text in texts if "clock runs" in text or "source_study" in text]


@pytest.mark.parametrize(("step", "hz"), [(0.06, "16.667"), (0.004 / 60, "15000")])
def test_a_clock_too_slow_or_too_fast_for_a_hand(tmp_path, step, hz):
    variables = sound()
    clocked(variables, step)
    assert warned(tmp_path, variables)[0] == (
        f"the clock runs at {hz} Hz, movement is usually recorded at 20 to 5000 Hz; check that t "
        "is in seconds"
    )


def test_stretches_without_recorded_spikes_are_left_out_of_the_rates(tmp_path):
    session = read_session(write_mat73(tmp_path / "a.mat", recording(samples=2501, start=100.0)))
    observed = np.array([[100.0, 104.0], [106.0, 110.0]])
    cut_out = replace(session, observed=observed)
    found = inspect(cut_out)
    assert found.numbers["unobserved"]["gaps"] == [{"start_s": 104.0, "seconds": 2.0}]
    whole = inspect(session).numbers["rates"]["mean_hz"]
    assert found.numbers["rates"]["mean_hz"] == pytest.approx(whole * 10 / 8)
    assert "no spikes were recorded in 1 gap, the longest 2.000 s\n" in report_text(cut_out, found)
    sentence = "no spikes were recorded in 1 gap, 2.000 s at t = 104.000 s; left out of"
    assert sum(text.startswith(sentence) for text in found.warnings) == 1
    nothing = inspect(replace(session, observed=np.empty((0, 2))))
    assert nothing.numbers["rates"]["highest_hz"] == 0


def test_a_unit_of_the_files_own_stands_where_mm_would(tmp_path):
    session = read_session(write_mat73(tmp_path / "a.mat", recording(samples=2501, start=100.0)))
    hand = replace(session.series["finger_pos"], unit="a.u.")
    session = replace(session, series={"finger_pos": hand})
    found = inspect(session)
    text = report_text(session, found)
    assert " a.u., y " in text and " a.u./s\n" in text and "mm" not in text and "rest" not in text
    assert found.numbers["finger_pos"]["unit"] == "a.u."


def test_no_source_is_recommended_that_is_as_bad(tmp_path):
    variables = sound()
    missing(variables, "cursor_pos")
    variables["finger_pos"][:] = np.nan
    first, second = warned(tmp_path, variables)
    assert first.startswith("finger_pos is NaN or Inf at 88001 samples") and second.startswith(
        "cursor_pos"
    )
    assert first.endswith("; with data.source=finger_pos they are left out of training and scores")
    assert second.endswith("; with data.source=cursor_pos they are left out of training and scores")


def small() -> dict[str, np.ndarray]:
    """Ten seconds, 2501 samples: spikes and a path whose figures can be computed by hand."""
    variables = recording(channels=3, rows=2, samples=2501, start=100.0)
    for cell, times in {
        (0, 0): np.append(100.1 + np.arange(40) * 0.2, [99.0, 99.5, 110.5]),
        (0, 1): 100.1 + np.arange(90) * 0.1,
        (1, 0): np.repeat(100.1 + np.arange(10) * 0.5, 2),
        (1, 1): np.array([90.0, 91.0]),
    }.items():
        put(variables, cell, np.sort(times))
    seconds = np.arange(2501) * 0.004
    # two seconds of rest, 500 mm in five seconds, three of rest
    x = np.clip(seconds - 2, 0, 5) * 100.0
    variables["finger_pos"][:, 1:] = np.stack([-x / 10, np.full(2501, -2.0)], axis=1)
    variables["cursor_pos"] = np.stack([x, np.full(2501, 20.0)], axis=1)
    variables["target_pos"] = np.array([[0, 0], [15, 0], [0, 0], [np.nan, 0], [0, 0], [15, 15]])[
        np.minimum(np.arange(2501) // 400, 5)
    ]
    return variables


def test_numbers(tmp_path):
    numbers = inspect(read_session(write_mat73(tmp_path / "small.mat", small()))).numbers
    assert numbers["shapes"] == {
        "t": [2501], "cursor_pos": [2501, 2], "target_pos": [2501, 2], "finger_pos": [2501, 3],
    }  # fmt: skip
    assert numbers["clock"] == {
        "samples": 2501, "start_s": 100.0, "stop_s": pytest.approx(110),
        "minutes": pytest.approx(1 / 6),
        "hz": pytest.approx(250), "gaps": [], "bins_of_64_ms": 156,
    }  # fmt: skip
    assert numbers["channels"] == {
        "total": 3,
        "areas": {"M1": 3},
        "silent": 1,
        "silent_channels": ["M1 003"],
    }
    assert numbers["spikes"] == {
        "total": 155, "inside": 150, "before": 4, "after": 1, "same_time": 10,
        "refractory_violations": ["M1 002 row 0"],
    }  # fmt: skip
    rates = numbers["rates"]
    assert rates["rows"]["0"] == pytest.approx(
        {"units": 2, "lowest_hz": 2, "median_hz": 3, "highest_hz": 4}
    )
    assert rates["rows"]["1"] == pytest.approx(
        {"units": 2, "lowest_hz": 0, "median_hz": 4.5, "highest_hz": 9}
    )
    assert (rates["units"], rates["hash_units"]) == (4, 2)
    assert (rates["median_hz"], rates["mean_hz"]) == pytest.approx((3, 3.75))
    assert (rates["highest_unit"], rates["slow"], rates["fast"]) == (
        "M1 001 row 1",
        ["M1 002 row 1"],
        [],
    )
    assert rates["drifting"] == []  # few spikes prove no drift
    for source in ("finger_pos", "cursor_pos"):
        found = numbers[source]
        assert found["x_mm"] == pytest.approx([0, 500]) and found["y_mm"] == pytest.approx([20, 20])
        assert found["rest_share"] == pytest.approx(0.5, abs=1e-3) and found["missing_samples"] == 0
        assert (found["highest_mm_s"], found["p95_mm_s"]) == pytest.approx((100, 100))
        assert found["mean_mm_s"] == pytest.approx(50, abs=0.05)
    assert numbers["finger_cursor_correlation"] == {"x": pytest.approx(1), "y": None}
    assert numbers["targets"] == {"reached": 3, "per_minute": pytest.approx(18), "places": 3}


def test_movement_is_measured_at_every_sample(tmp_path):
    session = read_session(simulated_file(tmp_path / "made.mat", seed=3, minutes=0.5, channels=4))
    speed = np.hypot(*(np.gradient(axis, session.t) for axis in session.finger_pos[:, :2].T))
    found = inspect(session).numbers["finger_pos"]
    assert found["rest_share"] == np.mean(speed < 10)
    assert found["mean_mm_s"] == pytest.approx(speed.mean())
    assert found["p95_mm_s"] == pytest.approx(np.quantile(speed, 0.95))


def test_spikes_out_of_order_are_measured_all_the_same(tmp_path):
    ordered, variables = small(), small()
    variables["spikes"][0, 0] = variables["spikes"][0, 0][::-1]
    found = [
        inspect(read_session(write_mat73(tmp_path / "some.mat", v))).numbers
        for v in (ordered, variables)
    ]
    assert found[0]["spikes"] == found[1]["spikes"] and found[0]["rates"] == found[1]["rates"]


def test_every_gap_and_every_rest_is_listed(tmp_path):
    variables = sound()
    paused(variables, 0.5)
    variables["t"][60000:] += 2
    for first in (5000, 70000):
        for name in ("finger_pos", "cursor_pos"):
            variables[name][first : first + 4000] = variables[name][first]
    numbers = inspect(read_session(write_mat73(tmp_path / "some.mat", variables))).numbers
    assert [gap["seconds"] for gap in numbers["clock"]["gaps"]] == pytest.approx([0.504, 2.004])
    assert [gap["start_s"] for gap in numbers["clock"]["gaps"]] == pytest.approx(
        [START + 159.996, START + 240.496]
    )
    rests = numbers["finger_pos"]["long_rests"]
    assert [rest["seconds"] for rest in rests] == pytest.approx([16, 16], abs=0.6)
    assert [rest["start_s"] for rest in rests] == pytest.approx(
        [START + 20, START + 282.5], abs=0.3
    )


def subprocess_run(*arguments, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], cwd=cwd, capture_output=True, text=True
    )


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command in this process, in `tmp_path`: its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def test_command_prints_what_is_there(tmp_path):
    write_mat73(tmp_path / "small.mat", small())
    done = subprocess_run("small.mat", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) < 45 and max(map(len, lines)) <= 100
    for line in (
        "clock       250 Hz, t = 100.000 to 110.000 s, 0.17 minutes, no gap in t",
        "channels    3 (M1 3), 1 silent",
        "spikes      150 in the recording; outside it 4 before, 1 after",
        "            row 0 (hash)       2      2.00      3.00      4.00",
        "            all                4      0.00      3.00      9.00  (M1 001 row 1)",
        "finger      x 0.0 to 500.0 mm, y 20.0 to 20.0 mm, no samples missing",
        "targets     3 reached, 18.0 a minute, at 3 places",
    ):
        assert line in lines
    assert any(line.startswith("! 156 bins of 64 ms are too few") for line in lines)


def test_the_documentation_shows_what_the_command_prints(tmp_path, run):
    path = simulated_session(tmp_path / "data", seed=0, minutes=7.0, channels=96)
    shown = (ROOT / "docs" / "data.md").read_text().split("```\n")
    printed = run(path.relative_to(tmp_path)).stdout
    assert f"{printed}drew outputs/inspection/{path.stem}.png\n" in shown


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def test_command_gives_json_even_of_an_empty_session(tmp_path, run):
    variables = small()
    silenced(variables, 3)
    variables["finger_pos"][:] = np.nan
    path = write_mat73(tmp_path / "empty.mat", variables)
    done = run(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout, parse_constant=refuse)
    inspection = inspect(read_session(path))
    assert printed == {"session": "empty", "file": str(path)} | inspection.numbers | {
        "warnings": inspection.warnings
    }
    assert printed["finger_pos"]["mean_mm_s"] is None and printed["rates"]["median_hz"] is None
    assert run(path).returncode == 0


def test_command_finds_a_published_session_by_name(tmp_path, run):
    (tmp_path / "data").mkdir()
    write_mat73(tmp_path / "data" / "indy_20160927_04.mat", small())
    assert run("indy_20160927_04").stdout.startswith("indy_20160927_04 (data/indy_20160927_04.mat)")
    assert (
        subprocess_run(
            "indy_20160927_04", "--data-dir", tmp_path / "data", cwd=tmp_path.parent
        ).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.mat"], "text.mat: is not a MATLAB file of version 7.3 (HDF5) or 5; save it in"),
        (["absent.mat"], "absent.mat: no such file"),
        (
            ["indy_20160927_04"],
            "data/indy_20160927_04.mat: is not there; type 'make data SESSION=indy_20160927_04'",
        ),
        (
            ["x/loco_20170302_02.mat"],
            "x/loco_20170302_02.mat: is not there; type 'make data SESSION=loco_2017",
        ),
        (
            ["indy_2016093_02"],
            "indy_2016093_02: is neither a file nor one of the 47 published sessions; "
            "is it indy_20160930_02 or",
        ),
        (["monkey"], "monkey: is neither a file nor one of the 47 published sessions; check the"),
        (["good.mat", "--figure", "other.mat"], "other.mat: is not the name of a figure; end it"),
        (["good.mat", "--figure", "text.mat/a.png"], "text.mat/a.png: cannot be written"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, mat_file, run, arguments, message):
    mat_file.rename(tmp_path / "good.mat")
    (tmp_path / "text.mat").write_text("t,x,y\n" * 50)
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and len(done.stderr.splitlines()) == 1


def test_a_damaged_file_ends_the_command(tmp_path, mat_file):
    mat_file.write_bytes(mat_file.read_bytes()[:20000])
    done = subprocess_run(mat_file, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith(f"error: {mat_file}: cannot be read")
        and len(done.stderr.splitlines()) == 1
    )


def test_command_draws_into_the_folder_of_outputs(tmp_path, mat_file, run):
    done = run(mat_file, "--figure")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "drew outputs/inspection/toy.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "toy.mat"]
    picture = tmp_path / "outputs" / "inspection" / "toy.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(picture.parent.parent.parent / "toy.mat", "--figure", "--json").stdout[-2:] == "}\n"


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_command_draws_by_the_ending(tmp_path, mat_file, run, monkeypatch, ending, start):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("~/toy.mat", "--figure", f"~/here/é.{ending}").returncode == 0
    assert (tmp_path / "here" / f"é.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize("case", ["whole", "no unit", "no finger"])
def test_every_panel_has_something_drawn(tmp_path, case):
    variables = small()
    if case == "no unit":
        silenced(variables, 3)
    if case == "no finger":
        variables["finger_pos"][:] = np.nan
    draw_session(read_session(write_mat73(tmp_path / "some.mat", variables)), tmp_path / "some.png")
    picture = plt.imread(tmp_path / "some.png")[:, :, :3]
    assert picture.shape[1] == 2000 and picture.shape[0] > 1500
    # bars and marks of sorted units above, the finger below
    blue = picture[:, :, 2] - picture[:, :, 0] > 0.2
    above, below = (half.sum() > 500 for half in np.array_split(blue, 2))
    assert (above, below) == (case != "no unit", case != "no finger")


@pytest.mark.parametrize("silent", [0, 1])
def test_every_panel_has_its_size_whether_or_not_a_channel_is_silent(tmp_path, silent):
    variables = recording(channels=6, rows=2)
    silenced(variables, silent)
    variables["spikes"][5] = variables["spikes"][4]
    figure = session_figure(read_session(write_mat73(tmp_path / "some.mat", variables)))
    figure.draw_without_rendering()
    sizes = [axes.get_position() for axes in figure.axes]
    plt.close(figure)
    assert all(size.width > 0.8 and size.height > 0.1 for size in sizes)


def test_a_recording_with_the_cursor_alone_is_inspected(tmp_path):
    variables = recording()
    del variables["finger_pos"], variables["target_pos"]
    session = read_session(write_mat73(tmp_path / "cursor.mat", variables))
    text = report_text(session, inspect(session))
    assert "cursor      x -40.0 to 40.0 mm" in text
    assert not any(word in text for word in ("finger", "target", "correlation"))
    draw_session(session, tmp_path / "cursor.png")
    assert (tmp_path / "cursor.png").stat().st_size > 10_000
