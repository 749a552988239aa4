"""Runs that are killed, interrupted or lose their disk finish with the same command.

Their files are then equal to the bit to those of a run that nothing stopped, and no others are
left.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from real_runs import KINDS, Fault, check_end, command, compared, operations, started
from sizes import FULL, cases

SMALL = [
    "session.minutes=1",
    "session.channels=8",
    "trainer.epochs=4",
    "model.recurrent.hidden_size=8",
]
PLAIN = ["model=gru", "model.recurrent._target_=torch.nn.GRU", "figures=none"]
RECIPES = {  # the quick form takes the first one
    "ema": [*PLAIN, "scheduler=plateau", "scheduler.patience=0", "trainer.ema=0.9"],
    "no schedule": ["model=lngru", "figures=pdf"],
    "plateau": ["model=gru", "scheduler=plateau", "scheduler.patience=0"],
    "cosine": ["model=lngru", "scheduler=cosine", "figures=none"],
    "warmup_cosine": ["model=gru", "scheduler=warmup_cosine", "trainer.monitor_layers=true"],
    "source study": ["experiment=source_study", "model=lngru", "data.split.first_bins=700"],
    "best": ["experiment=best", "figures=none"],
    "ensemble": [*PLAIN, "ensemble=2", "trainer.noise=0.5"],
    "chained": [*PLAIN, "data.split=chained", "data.split.cuts=2"],
    "overwrite": [*PLAIN, "overwrite=true", "figures=pdf"],
    "tensorboard": [*PLAIN, "logger=tensorboard"],
    "closed form": ["model=wiener"],
    "many sessions": ["model=multi_session", "sessions=[simulated]", "figures=none"],
}


class Unbroken:
    """A recipe's run that nothing stopped, and the folder that a broken one begins with."""

    def __init__(self, home: Path, recipe: str):
        small = SMALL if recipe != "closed form" else SMALL[:2]
        self.words = ["train", *RECIPES[recipe], *small, "output_dir=out"]
        self.words.append(f"data_dir={home / 'data'}")
        self.home, self.folder = home, home / "unbroken"
        self.folder.mkdir()
        if recipe == "overwrite":  # a finished run of other settings is in the place
            assert command(self.folder, [*self.words, "trainer.epochs=1"])[0] == 0
        self.before = shutil.copytree(self.folder, home / "before")
        code, text = command(self.folder, self.words)
        assert code == 0, text
        self.operations, self.files = operations(text), compared(self.folder)

    def broken(self, fault: Fault | None, delay: float = 0.0) -> tuple[str, float]:
        """Break a run at an operation, or kill it after a delay, and finish it.

        Returns what the run was doing, and the delay as it was.
        """
        folder = Path(shutil.copytree(self.before, self.home / "broken"))
        run = started(folder, self.words, fault)
        if fault is None:
            while run.process.is_alive() and not list(folder.rglob("*.running")):
                time.sleep(0.001)
            begun = time.monotonic()
            run.process.join(delay)
            run.process.kill()
            delay = time.monotonic() - begun
        code, text = run.ended()
        stage = "nothing, it had finished" if code == 0 else stage_of(folder)
        about = f"{fault} {delay:.3f} s, {stage}: {text}"
        if code:
            check_end(fault.kind if fault else "SIGKILL", code, text, about)
        if list(self.before.rglob("metrics.json")) and not (fault and fault.kind == "removed"):
            assert list(folder.rglob("metrics.json")), f"the overwritten run is lost, {about}"
        for part in folder.rglob("*.part"):  # another machine resumes it, as on a cluster
            part.rename(part.with_name(f"{'.'.join(part.name.split('.')[:-3])}.elsewhere.1.part"))
        epoch = last_epoch(folder)
        code, text = command(folder, self.words)
        assert code == 0, about + text
        if epoch is not None and "overwrite=true" not in self.words:
            assert f"resuming from epoch {epoch}" in text, about
        assert compared(folder) == self.files, about
        shutil.rmtree(folder)
        return stage, delay


def last_epoch(folder: Path) -> int | None:
    """The epoch of `last.pt` of a run that has not finished: the last one that is whole."""
    for path in folder.rglob("*.running/last.pt"):
        if not (path.parent / "metrics.json").exists():
            epoch = torch.load(path, weights_only=True)["epoch"]
            rows = (path.parent / "history.csv").read_text().splitlines()[1:]
            assert epoch in (len(rows) - 1, len(rows) - 2), "a whole epoch is lost"
            return epoch
    return None


def stage_of(folder: Path) -> str:
    """What a run was doing when it ended, by the files that it left."""
    names = {path.name for path in folder.rglob("*")}
    (working, *_) = [*folder.rglob("*.running"), None]
    if any(name.endswith(".part") for name in names):
        return "in a write"
    if any(name.endswith(".old") for name in names):
        return "in the exchange"
    if working is None or not (working / "history.csv").exists():
        return "at start"
    if (working / "metrics.json").exists():
        return "in the figures or before the exchange"
    if len((working / "history.csv").read_text().splitlines()) == 6:
        return "in the report"
    return "in an epoch"


@pytest.mark.parametrize("recipe", list(RECIPES)[: cases(1, len(RECIPES))])
def test_a_broken_run_finishes_equal_to_the_bit(recipe, tmp_path, tried):
    rng = np.random.default_rng(list(RECIPES).index(recipe))
    unbroken, stages = Unbroken(tmp_path, recipe), Counter()
    last = max(  # that of the last epoch: what is half-written is left
        number
        for number, one in enumerate(unbroken.operations)
        if one.startswith(("os.rename last.pt", "os.rename best.pt"))
    )
    stages["SIGKILL", unbroken.broken(Fault("SIGKILL", last))[0]] += 1
    for kind in KINDS[not FULL :][: cases(2, len(KINDS))]:
        for at in rng.permutation(len(unbroken.operations))[
            : cases(1, 4 if kind == "SIGKILL" else 1)
        ]:
            stages[kind, unbroken.broken(Fault(kind, int(at)))[0]] += 1
    if FULL:
        _, length = unbroken.broken(None, delay=60.0)
        for share in rng.uniform(0, 1.0, 4):
            stages["SIGKILL, timed", unbroken.broken(None, share * length)[0]] += 1
    tried(stages.total(), "broken runs")
    tried(sum(number for (kind, _), number in stages.items() if "SIGKILL" in kind), "killed runs")
    for (kind, stage), number in sorted(stages.items()):
        print(f"    {number} {kind} {stage}")
