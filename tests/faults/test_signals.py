"""Signals end any command in one line, at any moment, and closed streams end none."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from real_runs import KINDS, Fault, check_end, command, compared, operations
from sizes import FULL, cases

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PYTHON = [sys.executable, "-c"]
AT_IMPORT = """
import signal, sys
def hook(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        {action}
sys.addaudithook(hook)
"""
MODULE = "import runpy; runpy.run_module('bci_decode.train', run_name='__main__', alter_sys=True)"
SCRIPT = "from bci_decode.__main__ import main; main()"
SMALL = ["session.minutes=1", "session.channels=8", "trainer.epochs=1", "figures=none"]
SMALL += ["model=gru", "model.recurrent.hidden_size=8"]
SMALL += [] if FULL else ["model.recurrent._target_=torch.nn.GRU"]  # nothing to be compiled
RUN = "run/default/simulated/gru/seed0"
SPACE = f"words: [{', '.join(SMALL)}]\nspace: {{optimizer.lr: [0.001, 0.01]}}"
COMMANDS = {  # the quick form takes the first one
    "inspect": ["inspect", "session.mat", "--figure", "out/x.png"],
    "search": ["search", "space.yaml", "--trials", "2", "--output", "out"],
    "compare": ["compare", "run", "--output", "out"],
    "evaluate": ["evaluate", RUN, "--session", "session.mat", "--output", "out/x"],
    "stream": ["stream", RUN, "--replay", "session.mat", "--speed", "max", "--output", "out"],
    "export": ["export", RUN, "out/x.onnx"],
    "recalibrate": ["recalibrate", RUN, "session.mat", "--seconds", "20", "--output", "out/x"],
    "simulate": ["train", *SMALL, "data_dir=out", "output_dir=out"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with what the commands need: a run, its session and a space to search."""
    home = tmp_path_factory.mktemp("home")
    (home / "space.yaml").write_text(SPACE)
    assert command(home, ["train", *SMALL, "output_dir=run"])[0] == 0
    (session,) = (home / "data").glob("*.mat")
    shutil.copy(session, home / "session.mat")
    (home / "out").mkdir()
    return home


@pytest.mark.parametrize("name", list(COMMANDS)[: cases(1, len(COMMANDS))])
def test_a_broken_command_finishes_when_it_is_given_again(name, home, tmp_path, tried):
    folder = Path(shutil.copytree(home, tmp_path / "unbroken"))
    words = COMMANDS[name]
    before = Path(shutil.copytree(folder, tmp_path / "before"))
    code, text = command(folder, words)
    assert code == 0, text
    rng, files, last = np.random.default_rng(0), compared(folder), len(operations(text))
    for kind in ["SIGKILL", "SIGTERM again", *KINDS][: cases(2, 99)]:
        at = int(rng.integers(last))
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        code, text = command(folder, words, Fault(kind, at))
        ended = name == "stream" and kind.startswith(("SIGINT", "SIGTERM"))  # as the stream's end
        if code and not ended:
            check_end(kind, code, text, f"{kind} at {at}: {text}")
        assert "Traceback" not in text, text
        code, text = command(folder, words)
        assert code == 0, text
        assert compared(folder) == files, f"{kind} at {at}"
        tried(1, "broken commands")


@pytest.mark.parametrize(
    ("program", "module", "number"),
    [
        (MODULE, "hydra", signal.SIGINT),
        (SCRIPT, "hydra", signal.SIGTERM),
        *[
            (program, module, number)
            for program in (MODULE, SCRIPT)
            for module in ("omegaconf", "numpy", "torch", "torch._C", "numba")
            for number in SIGNALS
        ][: cases(0, 99)],
    ],
)
def test_a_signal_while_libraries_are_imported_is_one_line(program, module, number, tmp_path):
    hook = AT_IMPORT.format(module=module, action=f"signal.raise_signal({int(number)})")
    words = ["train"] * (program == SCRIPT) + SMALL
    done = subprocess.run(
        [*PYTHON, hook + program, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 128 + number, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number] in done.stderr


@pytest.mark.parametrize("program", [MODULE, SCRIPT])
def test_a_signal_at_any_early_moment_is_one_line(program, tmp_path):
    """From the import of Hydra on, the first library, most of them before the first epoch."""
    hook = AT_IMPORT.format(module="hydra", action="print(flush=True)")
    words = ["train"] * (program == SCRIPT) + SMALL
    for number, delay in zip(25 * SIGNALS, np.linspace(0.02, 2.5, cases(1, 50)), strict=False):
        process = subprocess.Popen(
            [*PYTHON, hook + program, *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 128 + number, (delay, error)
        assert len(error.splitlines()) == 1, (delay, error)


OPEN_A_FILE = """
import sys
from pathlib import Path
from tqdm import tqdm
from bci_decode.errors import run_cli
def command():
    with open("file.txt", "w") as file:
        list(tqdm(range(2), disable=False))
        print("out")
        print("error", file=sys.stderr)
        file.write(f"mine {file.fileno() > 2}")
    Path("end.txt").touch()
run_cli(command)
"""


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    line = f"{sys.executable} -c '{OPEN_A_FILE}' <&- >&- 2>&-"
    assert subprocess.run(line, shell=True, cwd=tmp_path, timeout=60).returncode == 0
    assert (tmp_path / "file.txt").read_text() == "mine True" and (tmp_path / "end.txt").exists()


if FULL:

    @pytest.mark.parametrize("module", ["bci_decode train", "bci_decode.train"])
    @pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "</dev/null", "<&- >&- 2>&-", "|:"])
    def test_a_closed_stream_ends_no_run(module, closed, home, tmp_path):
        words = f"{' '.join(SMALL)} data_dir={home / 'data'}"
        line = f"set -o pipefail; {sys.executable} -m {module} {words} {closed}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / "outputs/default/simulated/gru/seed0"
        assert json.loads((folder / "metrics.json").read_text())["epochs"] == 1
        assert "test R2" in (folder / "train.log").read_text() and "Traceback" not in done.stderr
