"""Senseless settings end with one line, at once, and without memory: every key, every value.

The keys are those of `config.py` and of the yaml files, so that a new one is tried by itself. A
process with little memory and little time tries them, one after another.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
import torch
from composing import compose
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from setting_trials import (
    SENSELESS,
    SIGNED,
    SMALL,
    Checks,
    all_cases,
    bases,
    composed,
    numeric_keys,
)
from sizes import cases

from bci_decode.config import DataConfig, SplitConfig, WindowConfig, described_keys
from bci_decode.data.binning import BinnedSession
from bci_decode.data.dataset import prepare
from bci_decode.errors import BciDecodeError
from bci_decode.runs import part_settings
from bci_decode.runs.build import build_model, session_file
from bci_decode.runs.compose import CONF, typed_config
from bci_decode.runs.folder import run_folder
from bci_decode.runs.messages import error_line
from bci_decode.runs.part_settings import RANGES, check_part
from bci_decode.runs.run import run
from bci_decode.runs.search_space import read_space

GRU = ("model=gru", "model.recurrent.hidden_size=6")
LIMIT = 60  # s, for a case that takes tens of milliseconds; the machine may be busy
MEMORY = 2 << 30  # bytes that cases may take, all together


def made_session(bins: int) -> BinnedSession:
    """Noise in two units."""
    rng = np.random.default_rng(0)
    units = pd.DataFrame({"channel": ["M1 001", "M1 002"], "area": "M1", "row": 1})
    edges = 0.004 * np.arange(bins + 1)
    counts = rng.integers(0, 3, (bins, 2), np.uint8)
    hand = rng.normal(size=(bins, 2))
    return BinnedSession("made", edges, counts, units, hand, "velocity", 0.004, 0.0)


@pytest.fixture(scope="module")
def checks(tmp_path_factory) -> Checks:
    return Checks(tmp_path_factory.mktemp("settings"))


def chosen() -> Iterator[tuple[str, str, str]]:
    """A sample that is the same in every run, or all."""
    every = list(all_cases())
    yield from random.Random(0).sample(every, cases(60, len(every)))


def test_every_numeric_key_with_every_kind_of_value(tmp_path, tried):
    """One process tries all; where it dies or hangs, the last line that it wrote is the case."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=LIMIT * cases(4, 60),
        )
    except subprocess.TimeoutExpired as hang:
        said = (hang.stdout or b"").decode().splitlines()
        pytest.fail(f"hangs: {said[-1] if said else 'nothing was tried'}")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    tried(len(lines), "settings")
    wrong = [line for line in lines if not line.endswith(": fine")]
    assert not wrong
    assert len(lines) >= cases(60, 1500)


def verdict(checks: Checks, base: str, key: str, value: str) -> str:
    """What is wrong with the answer to a setting, else "fine"."""
    try:
        line = checks.refusal(base, key, value)
    except Exception as fault:  # all that is no BciDecodeError is what this looks for
        return f"raises {type(fault).__name__}: {fault}"
    meant = key in SIGNED and value == "-1"
    if line is None:
        return "accepted" if value in SENSELESS and not meant else "fine"
    if "\n" in line or len(line) > 500 or line.startswith("cannot be used"):
        return f"no clear line: {line}"
    return "fine"


def try_all(folder: str) -> None:
    """Try the cases under limits; a line for each."""
    import faulthandler
    import logging
    import warnings
    from pathlib import Path

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")
    checks = Checks(Path(folder))
    for base in bases():
        composed(base)
    checks.refusal("model=gru", "model.dropout", "0.1")  # imports and compiled kernels
    with suppress(ImportError, OSError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for base, key, value in chosen():
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        sys.stdout.write(f"{base} {key}={value}: ")
        sys.stdout.flush()
        found = verdict(checks, base, key, value)
        sys.stdout.write(f"{found}\n")
    faulthandler.cancel_dump_traceback_later()


def test_the_suite_knows_every_key_with_a_type():
    """Else a key that is not in the tables would be tried by nobody."""
    numbers = {
        name for name, default, _ in described_keys()
        if isinstance(default, (int, float)) and not isinstance(default, bool)
    }  # fmt: skip
    assert numbers <= set(numeric_keys("data.split=chained"))
    for group in ("model", "optimizer", "scheduler"):
        assert all(f"{group}={path.stem}" in bases() for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("model.recurrent.hiden_size=3", "did you mean model.recurrent.hidden_size?"),
        ("+model.recurrent.hiden_size=3", "did you mean model.recurrent.hidden_size?"),
        ("modle=gru", "modle: no such key; did you mean model?"),
        ("model=gruu", "model=gruu: there is none; did you mean gru? choose one of"),
        ("session=indy_20160927_4", "did you mean indy_20160927_04?"),
        ("optimizer=adamm", "optimizer=adamm: there is none; did you mean"),
        ("optimizer.lrr=1", "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        ("scheduler.facto=1", "scheduler.facto: no such key; did you mean scheduler.factor?"),
        ("model.recurrent.norm=rms", "is a key of model=aegru, "),
        ("epochs=3", "epochs: no such key; did you mean trainer.epochs?"),
        ("lr=0.1", "lr: no such key; did you mean optimizer.lr?"),
        ("optimizer.betas=[0.8,0.9]", "+optimizer.betas=... adds one that its class takes"),
        ("+data.foo=1", "data.foo: nothing reads this key"),
        ("+data.window.lenght=1", "nothing reads this key; remove it; did you mean data.window.l"),
        ("+trainer.x=1", "trainer.x: nothing reads this key; remove it"),
        ("+foo=1", "foo: nothing reads this key; remove it"),
        ("+scheduler.foo=1", "scheduler.foo: nothing reads this key; remove it"),
        ("+optimizer.foo=1", "optimizer.foo: nothing reads this key; remove it"),
        ("+model.foo=1", "model.foo: nothing reads this key; remove it"),
        ("+session.foo=1", "session.foo: nothing reads this key; remove it"),
        ("+optimizer.amsgrd=1", "optimizer.amsgrd: nothing reads this key; remove it"),
        ("trainer.epochs=many", "trainer.epochs: Value 'many'"),
        ("data.lag=null", "data.lag: is null; give a value"),
        ("model.head._target_=torch.nn.Identity", "model: gives (1, 2, 6) for one window"),
        ("model.recurrent._target_=torch.nn.Linear", "nothing reads this key"),
        ("optimizer._target_=torch.nn.Identity", "optimizer"),
        ("optimizer._target_=torch.optim.LBFGS ~optimizer.weight_decay", "LBFGS needs the loss"),
        (
            "+scheduler._target_=torch.nn.Identity +scheduler._partial_=true",
            "scheduler: Identity is no schedule",
        ),
        ("session=local session.path=a.mat +session.foo=1", "session.foo: nothing reads this key"),
    ],
)
def test_a_mistyped_key_is_one_line(checks, words, line):
    own = words.split()
    with pytest.raises(BciDecodeError) as refusal:
        config = compose(*SMALL, *([] if own[0].startswith("model=") else GRU), *own)
        if "_target_" in config.session:
            config.session.folder = str(checks.folder)
            session_file(config)
        checks.train(config)
    assert line in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.recurrent.num_layers=1000000"], "num_layers: is 1000000; choose 1 to 100"),
        (["model.recurrent.hidden_size=1000000000"], "hidden_size: is 1000000000; choose 1 to"),
        (["model.recurrent.hidden_size=9999"], "up to 1.2e+09 weights; choose less"),
        (["model.recurrent.hidden_size=2000", "ensemble=100"], "of 100 models, up to"),
        (["session.minutes=0.6", "data.window.length=8", "model.recurrent.num_layers=0"], "is 0"),
    ],
)
def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(words, line):
    with pytest.raises(BciDecodeError) as refusal:
        typed_config(compose("model=gru", *words))
    assert line in str(refusal.value)


def test_the_weights_of_a_model_are_counted_before_it_is_made(monkeypatch):
    words = ("hidden_size=6", "num_layers=3", "bidirectional=true")
    config = compose("model=lstm", *(f"model.recurrent.{word}" for word in words)).model
    layers = torch.nn.LSTM(5, 6, num_layers=3, bidirectional=True, bias=False)
    number = sum(weight.numel() for weight in layers.parameters())
    monkeypatch.setattr(part_settings, "MAX_WEIGHTS", 2 * number)
    check_part("model", config, inputs=5, members=2)
    monkeypatch.setattr(part_settings, "MAX_WEIGHTS", 2 * number - 1)
    with pytest.raises(BciDecodeError, match="of 2 models, up to"):
        check_part("model", config, inputs=5, members=2)


def test_a_checkpoint_cannot_name_such_a_model_either():
    config = composed("model=gru").model.copy()
    config.recurrent.num_layers = 10**9
    with pytest.raises(BciDecodeError, match="model.recurrent.num_layers: is 1000000000"):
        build_model(config, 4, 2)


def test_windows_that_no_memory_holds_are_refused():
    session, keys = made_session(100_001), {"kind": "history", "length": 9000, "stride": 1}
    config = DataConfig(bin_width=0.004, split=SplitConfig(gap=0.0), window=WindowConfig(**keys))
    with pytest.raises(BciDecodeError, match=r"data.window.length: is 9000, and there are \d+ w"):
        prepare(session, config)


@pytest.mark.parametrize("name", ["../up", "/abs", "a\nb", " ", "a/../../b"])
@pytest.mark.parametrize("key", ["experiment", "model"])
def test_names_cannot_leave_the_output_folder(key, name):
    config = composed("model=gru").copy()
    config.names[key] = name
    for refuse in (run_folder, typed_config):
        with pytest.raises(BciDecodeError, match=f"names.{key}: is "):
            refuse(config)


@pytest.mark.parametrize("key", ["session.path", "data_dir", "output_dir", "init_from"])
@pytest.mark.parametrize("value", ["n" * 300, "d/" * 3000, "a\0b", "é" * 200])
def test_a_path_that_no_file_system_takes_is_one_line(tmp_path, key, value):
    own = ("session=local", "session.path=a.mat") if key == "session.path" else ()
    config = compose("model=gru", *own, f"output_dir={tmp_path}")
    OmegaConf.update(config, key, value)
    with pytest.raises((BciDecodeError, OmegaConfBaseException)) as refusal:
        run(config, progress=False)
    line = error_line(refusal.value)
    assert "choose another path" in line and len(line) < 300


SPACES = {
    "space: {}": "space: is empty",
    "space: {5: [1]}": "space.5: cannot be drawn",
    "space: {output_dir: [a]}": "space.output_dir: cannot be drawn",
    "space: {hydra/launcher: [a]}": "cannot be drawn",
    "space: {model.history: []}": "space.model.history: is []",
    "space: {model.history: {uniform: [1, .inf]}}": "space.model.history: is ",
    "space: {model.history: {uniform: [.nan, 1]}}": "space.model.history: is ",
    "space: {model.history: {uniform: [true, 3]}}": "space.model.history: is ",
    "space: {model.history: {log: [0, 3]}}": "space.model.history: is ",
    "space: {model.history: [2020-01-01]}": "space.model.history: is ",
    "space: {model.history: &a [*a]}": "space.model.history: is [[...]]",
    "space: {model.history: [1]}\nextra: 3": "extra: nothing reads this key",
    "space: {model.history: [1]}\nwords: 5": "words: is 5",
    "space: {model.history: [1]}\nwords: [5]": "words: is [5]",
    "space: {model.history: " + "[" * 500 + "]" * 500 + "}": "is no yaml",
    "space: [1]": "has no space",
    "\0": "is no yaml",
    "\xff": "is no yaml",
    "!!python/object:os.system x": "is no yaml",
}


@pytest.mark.parametrize(("text", "line"), SPACES.items(), ids=range(len(SPACES)))
def test_a_senseless_search_space_names_file_and_key(tmp_path, text, line):
    path = tmp_path / "space.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BciDecodeError) as refusal:
        read_space(path)
    said = str(refusal.value)
    assert said.startswith(f"{path}: ") and line in said and len(said) < 400


def test_every_range_of_a_part_refuses_what_lies_outside():
    for part, ranges in RANGES.items():
        for name, one in ranges.items():
            limits = one.metadata["limits"]
            assert limits["low"] is not None or limits["above"] is not None, (part, name)
            assert limits["high"] is not None or limits["below"] is not None, (part, name)


if __name__ == "__main__":
    try_all(sys.argv[1])
