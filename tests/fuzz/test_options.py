"""Senseless options end with one line: every option that --help lists, with every kind of value.

A new option is tried by itself. Sessions that are devices or pipes are tried where sessions are
read: see `test_damaged_sessions`.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import runpy
import sys
from pathlib import Path

import pytest
from composing import compose
from sizes import cases

from bci_decode.cli import run_command
from bci_decode.errors import BciDecodeError
from bci_decode.runs.run import run

SCRIPTS = Path(__file__).parents[2] / "scripts"
NUMBERS = ("-1", "nan", "inf", "1e308", "word", str(10**30))
SIGNED = ("--start", "--stop")  # times of a clock, which may be below 0
ELSEWHERE = ("--timeout", "--base-url")  # of download: tests/data/test_download.py
STOPS = (("explain.py", "--output"), ("recalibration.py", "--data-dir"))
RECORDINGS = ("--session", "--replay", "--parent-session", "--excerpt")
SMALL = (
    "model=wiener", "model.history=2", "session.minutes=0.6", "session.channels=4",
    "data.bin_width=0.05", "data.window.length=8", "data.window.burn_in=2",
    "data.split.gap=0.1", "figures=none",
)  # fmt: skip
# what each command is given besides; a word of {} is a path of the fixture, and those without a
# part of their own stop at a file that is named as a folder
COMMANDS: dict[str, list[str]] = {
    "evaluate": ["{run}", "--session", "{session}", "--output", "{made}/evaluated"],
    "stream": ["{run}", "--replay", "{session}", "--speed", "max", "--output", "{made}/streamed"],
    "export": ["{run}", "{made}/decoder.onnx", "--session", "{session}"],
    "pack": ["{run}", "--output", "{made}/packed.safetensors", "--overwrite"],
    "recalibrate": ["{run}", "{session}", "--seconds", "8", "--steps", "1", "--output",
                    "{made}/fitted", "--overwrite"],
    "calibrate": ["{run}", "{session}", "--output", "{made}/calibrated"],
    "search": ["no_such_search"],
    "compare": ["{outputs}", "--output", "{made}/compared"],
    "inspect": ["{session}"],
    "convert": ["{session}", "{made}/converted.npz"],
    "download": ["no_such_session", "--data-dir", "{made}"],
    "explain.py": ["--output", "{file}/x"],
    "normalisation.py": ["{made}"],
    "trials.py": ["--list", "{file}/x"],
    "multi_session.py": ["--data-dir", "{file}/x", "--output", "{made}/days"],
    "recalibration.py": ["--data-dir", "{file}/x", "--output", "{made}/recalibration"],
    "simulated_days.py": ["--data-dir", "{file}/x"],
    "simulation_table.py": ["{file}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """A finished run, its session, and places that paths may lead to."""
    home = tmp_path_factory.mktemp("options")
    data, outputs = home / "data", home / "outputs"
    words = (*SMALL, f"data_dir={data}", f"output_dir={outputs}")
    folder = run(compose(*words), progress=False)
    (home / "file").write_text("not a folder")
    (home / "made").mkdir()
    found = {"home": home, "run": folder, "session": next(data.glob("*.mat")), "outputs": outputs}
    found |= {"file": home / "file", "made": home / "made"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(home / "fifo")
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(autouse=True)
def at_home(places, monkeypatch):
    monkeypatch.chdir(places["home"])
    monkeypatch.setattr(sys, "argv", [])


def perform(command: str, words: list[str]) -> None:
    """Run a command, or a script, in this process."""
    if command.endswith(".py"):
        sys.argv = [command, *words]
        runpy.run_path(str(SCRIPTS / command))["main"]()
    else:
        run_command(command, words)


def refusal(command: str, words: list[str]) -> str | None:
    """The line of a refused command; None for one that did its work."""
    streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with streams[0], streams[1]:
            perform(command, words)
    except BciDecodeError as mistake:
        return str(mistake)
    return None


def options(command: str) -> list[str]:
    """The options of a command that take a value."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        perform(command, ["--help"])
    return sorted(set(re.findall(r"^\s+(--[\w-]+) [A-Z{\[]", out.getvalue(), re.M)))


def given(command: str, places: dict[str, str], option: str, value: str) -> list[str]:
    """The words of a command with one option; a part of the explanations that takes it."""
    words = [word.format(**places) for word in COMMANDS[command]]
    if command == "explain.py" and option not in ("--parts", "--document", "--jobs"):
        plateau = "plateau" in option or option in ("--batch-sizes", "--histories")
        words += ["--parts", "plateau" if plateau else "dynamics"]
    return [*words, f"{option}={value}"]


def all_options() -> list[tuple[str, str]]:
    """Every option but those that keep a study from beginning: see `COMMANDS`."""
    found = [(command, option) for command in COMMANDS for option in options(command)]
    return [one for one in found if one not in STOPS and one[1] not in ELSEWHERE]


def test_every_number_that_makes_no_sense_is_one_line(places, tried):
    """A command without a run ends where its options are read, or else says what it lacks."""
    places = places | {"run": f"{places['file']}/x", "session": f"{places['file']}/x"}
    places["outputs"] = places["made"]

    def names(line: str | None, option: str) -> bool:
        """Whether a line is about an option, by its own name or that of its setting."""
        plain = option.strip("-").replace("-", "_")
        return line is not None and line.startswith((option, f"{plain}:"))

    chosen = random.Random(0).sample(every := all_options(), cases(12, len(every)))
    numbers = [
        (command, option)
        for command, option in chosen
        if names(refusal(command, given(command, places, option, "word")), option)
    ]
    assert len(numbers) >= cases(3, 25)
    tried(len(numbers) * len(NUMBERS), "options")
    for command, option in numbers:
        for value in NUMBERS:
            line = refusal(command, given(command, places, option, value))
            if option in SIGNED and value == "-1":
                continue
            assert names(line, option), (command, option, value, line)
            assert "\n" not in str(line) and len(str(line)) < 400


def impossible(places: dict[str, str], recording: bool) -> list[str]:
    """Paths that are none, or lead to something else than is wanted."""
    found = ["", places["made"], places["file"], places["file"] + "/x", "n" * 300]
    found += ["d/" * 3000, "a\0b"]
    if not recording:
        found += ["/dev/null", "/dev/full", places["home"] + "/fifo"]
    return found


def test_every_path_that_leads_nowhere_is_one_line_or_does_no_harm(places, tried):
    possible = [
        (command, option, value)
        for command, option in all_options()
        if option != "--figures"
        for value in impossible(places, option in RECORDINGS)
    ]
    for command, option, value in random.Random(4).sample(possible, cases(6, len(possible))):
        line = refusal(command, given(command, places, option, value))
        short = line is None or ("\n" not in line and len(line) < 1200 + len(value))
        assert short, (command, option, value, line)
        tried(1, "options")
        assert Path(places["file"]).read_text() == "not a folder"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["search", "gru", "--trails", "3"], "unrecognized arguments: --trails 3; did you mean"),
        (["evaluate", "x", "--sesion=y"], "required: --session"),
        (["stream", "x", "--speeed", "1"], "did you mean --speed?"),
        (["export"], "required: RUN, FILE.onnx; --help lists the options"),
    ],
)
def test_a_mistyped_option_is_one_line(words, line):
    assert line in (refusal(words[0], words[1:]) or "")
