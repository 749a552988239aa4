"""A resumed training depends on `last.pt` alone, and refuses one that does not fit in one line."""

from __future__ import annotations

from functools import partial

import pandas as pd
import pytest
import torch
from toys import made_decoder, made_trainer

from bci_decode.errors import BciDecodeError
from bci_decode.training.checkpoint import save_checkpoint

PLATEAU = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)


def trainer(folder, epochs=4, **changes):
    return made_trainer(folder, epochs=epochs, lr=0.05, scheduler=PLATEAU, ema=0.9, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trainer(folder).fit()
    return folder


@pytest.fixture
def begun(tmp_path):
    """The same training after two of its four epochs."""
    trainer(tmp_path / "begun", epochs=2).fit()
    return tmp_path / "begun"


def same(one, other):
    """Whether two trainings have the same history and the same best.pt, to the bit."""
    histories = [pd.read_csv(f / "history.csv").drop(columns="seconds") for f in (one, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    states = [torch.load(folder / "best.pt", weights_only=True) for folder in (one, other)]
    weights = [state["decoder"] for state in states]
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and states[0]["epoch"] == states[1]["epoch"]


def test_no_other_file_matters(whole, begun):
    """best.pt of another epoch (killed before last.pt was written), damaged, or none at all."""
    last = (begun / "last.pt").read_bytes()
    for content in ((whole / "best.pt").read_bytes(), b"damaged", None):
        for name in ("best.pt", "history.csv"):
            if content is None:
                (begun / name).unlink()
            else:
                (begun / name).write_bytes(content)
        (begun / "last.pt").write_bytes(last)
        trainer(begun, decoder=made_decoder(seed=3)).fit()
        assert same(whole, begun)


def test_a_selection_before_the_stop_is_kept(tmp_path):
    """The best epoch is the first one, and later ones do not write best.pt again."""
    for name, epochs in (("whole", (3,)), ("parts", (1, 3))):
        for last in epochs:
            made_trainer(tmp_path / name, epochs=last, lr=0.0, select_on="val").fit()
            (tmp_path / name / "best.pt").write_bytes(b"lost" * (last < 3)) if last < 3 else None
    assert same(tmp_path / "whole", tmp_path / "parts")


def edited(key, value):
    def edit(state):
        state[key] = value

    return edit


def edited_moment(state):
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(2)


def edited_rate(state):
    state["optimizer"]["param_groups"][0]["lr"] = "fast"


def edited_groups(state):
    state["optimizer"]["param_groups"] *= 2


def edited_patience(state):
    state["scheduler"]["patience"] = "long"


def edited_best(state):
    state["best"]["epoch"] += 1


def edited_weights(state):
    state["best"]["decoder"]["head.bias"] = torch.zeros(3)


def edited_loss(state):
    state["history"][1]["val_loss"] = float("nan")


def edited_column(state):
    for row in state["history"]:
        row["more"] = 1.0


def edited_kind(state):
    state["decoder"]["head.bias"] = state["decoder"]["head.bias"].long()


@pytest.mark.parametrize(
    "edit",
    [
        edited("optimizer", {}),
        edited("optimizer", {"state": {}, "param_groups": []}),
        edited("optimizer", {"state": {0: 1}, "param_groups": [{"params": [0]}]}),
        edited("scheduler", {}),
        edited("random", torch.zeros(9, dtype=torch.uint8)),
        edited("random", torch.zeros(9)),
        edited("shuffle_rng", "seed"),
        edited("history", []),
        edited("history", [[1.0]]),
        edited("epoch", 1),
        edited("epoch", None),
        edited("averaged", {"n_averaged": torch.zeros(3)}),
        edited("averaged", None),
        edited("decoder", {}),
        edited("decoder", [1]),
        edited("best", {}),
        edited("mean", {"counts": torch.zeros(5)}),
        edited_moment,
        edited_rate,
        edited_groups,
        edited_patience,
        edited_best,
        edited_weights,
        edited_loss,
        edited_column,
        edited_kind,
    ],
)
def test_a_state_that_does_not_fit_is_one_line(begun, edit):
    state = torch.load(begun / "last.pt", weights_only=True)
    edit(state)
    save_checkpoint(begun / "last.pt", state)
    with pytest.raises(BciDecodeError, match=r"last.pt: ") as error:
        trainer(begun).fit()
    assert "\n" not in str(error.value)


def test_a_state_that_another_program_wrote_is_refused(begun):
    state = torch.load(begun / "last.pt", weights_only=True)
    state["decoder"]["head.bias"] += 1.0
    torch.save(state, begun / "last.pt")
    with pytest.raises(BciDecodeError, match=r"last.pt: is damaged, or no checkpoint"):
        trainer(begun).fit()


def make_older(path):
    """Make a last.pt as earlier versions wrote it."""
    state = torch.load(path, weights_only=True)
    for key in ("best", "settings"):
        del state[key]
    torch.save(state, path)


def test_a_state_of_an_earlier_version_goes_on_with_its_own_best_weights(whole, begun):
    make_older(begun / "last.pt")
    other, own = whole / "best.pt", begun / "best.pt"
    before = own.read_bytes()
    later = torch.load(other, weights_only=True) | {"epoch": 4}
    save_checkpoint(own, later)
    with pytest.raises(BciDecodeError, match=r"last.pt: holds the state of another training"):
        trainer(begun).fit()
    own.write_bytes(before)
    trainer(begun).fit()
    assert same(whole, begun)


def test_an_earlier_version_killed_between_best_and_last_goes_on(whole, begun):
    """Its best.pt is of the next epoch, which is trained and selected again."""
    make_older(begun / "last.pt")
    last = (begun / "last.pt").read_bytes()
    trainer(begun, epochs=3).fit()
    ahead = (begun / "best.pt").read_bytes()
    assert torch.load(begun / "best.pt", weights_only=True)["epoch"] == 3
    (begun / "last.pt").write_bytes(last)
    with pytest.raises(BciDecodeError, match=r"last.pt: holds the state of another training"):
        trainer(begun, epochs=2).fit()  # which would not train that epoch
    assert (begun / "best.pt").read_bytes() == ahead
    trainer(begun).fit()
    assert same(whole, begun)


def test_a_next_epoch_that_is_not_selected_again_is_one_line(tmp_path):
    """The weights of the epoch that is selected instead are lost."""
    flat = partial(made_trainer, tmp_path, lr=0.0, select_on="val")
    flat(epochs=1).fit()
    make_older(tmp_path / "last.pt")
    save_checkpoint(
        tmp_path / "best.pt", torch.load(tmp_path / "best.pt", weights_only=True) | {"epoch": 2}
    )
    with pytest.raises(BciDecodeError, match=r"best.pt: is of epoch 2, which is not selected"):
        flat(epochs=3).fit()
