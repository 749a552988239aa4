"""Every recurrent model of `conf/model/` trains, and its folder is read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from composing import compose
from recordings import ROOT

import bci_decode as bd
from bci_decode.errors import BciDecodeError
from bci_decode.runs.build import build_model
from bci_decode.runs.run import run
from bci_decode.style import model_label

# what a layer computes does not depend on its size
SMALL = ["trainer.epochs=2", "session.minutes=1", "model.recurrent.hidden_size=8"]
NEW = [
    "lstm", "lnlstm", "rnn", "lnrnn", "mingru", "hgrn", "lru", "gru_prenorm", "gru_postnorm",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    home = tmp_path_factory.mktemp("zoo")
    return [f"output_dir={home / 'outputs'}", f"data_dir={home / 'data'}", *SMALL]


@pytest.mark.parametrize("model", NEW)
def test_it_trains_and_is_read_back(model, words):
    folder = run(compose(*words, f"model={model}"), progress=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["model"] == model and metrics["epochs"] == 2
    session = bd.read_session(metrics["data"]["file"])
    decoded = bd.load_run(folder).predictions(session)["decoded"]
    with np.load(folder / "predictions.npz") as saved:
        np.testing.assert_allclose(decoded, saved["decoded"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", NEW)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_its_file_makes_a_causal_or_bidirectional_decoder(model, bidirectional, words):
    config = compose(*words, f"model={model}", f"bidirectional={bidirectional}")
    torch.manual_seed(0)
    decoder = build_model(config.model, 5, 2).eval()
    assert decoder.bidirectional == bidirectional
    x = torch.randn(1, 40, 5)
    whole = decoder(x)[0]
    x[0, 30] += 1
    changed = (decoder(x)[0] != whole).any(-1)[0]
    assert bool(changed[30:].all()) and bool(changed[:30].any()) == bidirectional
    if not bidirectional:
        first, state = decoder(x[:, :17])
        second, _ = decoder(x[:, 17:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), decoder(x)[0])


def test_init_from_matches_the_units_of_a_stack(words):
    """The inner layers have weights of the same name, whose columns are no units."""
    first = run(compose(*words, "model=gru_prenorm"), progress=False)
    again = [f"init_from={first}", "seed=1", "model=gru_prenorm", "trainer.epochs=1"]
    folder = run(compose(*words, *again), progress=False)
    assert json.loads((folder / "metrics.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("model.recurrent.num_layers=9", "num_layers is 9, choose 2 to 8"),
        ("model.recurrent.norm=batch", "norm is 'batch', choose pre, post"),
        ("trainer.monitor_layers=true", "choose model=gru or model=lngru"),
    ],
)
def test_a_wrong_setting_of_a_stack_is_one_line(word, line, words):
    with pytest.raises(BciDecodeError, match=line) as error:
        run(compose(*words, "model=gru_prenorm", "seed=3", word), progress=False)
    assert "\n" not in str(error.value)


def test_every_recurrent_model_has_a_label():
    labels = {model_label(name) for name in NEW}
    assert len(labels) == len(NEW) and not labels & set(NEW)
    assert all((ROOT / "conf" / "model" / f"{name}.yaml").exists() for name in NEW)
