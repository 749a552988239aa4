"""The training loop on small data.

It learns, selects, stops, resumes to the last bit, and refuses files of other data.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from toys import made_data, made_decoder, made_holdout, made_trainer

from bci_decode.data.parts import Window
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_parts
from bci_decode.training.checkpoint import load_checkpoint
from bci_decode.training.history import history_columns


@pytest.mark.parametrize("window", [Window("sequence", 20, 10, 3), Window("history", 5, 1, 4)])
def test_learns_and_logs(tmp_path, window):
    data = made_data(window=window)
    trainer = made_trainer(tmp_path, data, epochs=12)
    history = trainer.fit()
    assert list(history.columns) == history_columns()
    assert history["epoch"].tolist() == list(range(13))
    assert history["val_r2"].iloc[0] < 0.3 and history["val_r2"].iloc[-1] > 0.8
    np.testing.assert_allclose(pd.read_csv(tmp_path / "history.csv"), history)
    np.testing.assert_allclose(history["val_r2"], (history["val_r2_x"] + history["val_r2_y"]) / 2)


def test_losses_are_in_the_targets_unit(tmp_path):
    """The last row is the error in (mm/s)^2 over the whole stream, computed again from last.pt."""
    data = made_data()
    made_trainer(tmp_path, data).fit()
    decoder = made_decoder(seed=9)
    load_checkpoint(tmp_path / "last.pt", decoder)
    row = pd.read_csv(tmp_path / "history.csv").iloc[-1]
    for name in ("val", "test"):
        loss = ((decode_parts(decoder, data)[name] - data.parts[name].target) ** 2).mean()
        assert row[f"{name}_loss"] == pytest.approx(loss, rel=1e-6)
    untrained = pd.read_csv(tmp_path / "history.csv").iloc[0]["train_loss"]
    assert untrained == pytest.approx((data.parts["train"].target ** 2).mean(), rel=0.5)


def test_the_best_epoch_is_the_validation_parts(tmp_path):
    history = made_trainer(tmp_path, epochs=15, lr=0.05).fit()
    state = load_checkpoint(tmp_path / "best.pt", made_decoder())
    assert state["epoch"] == history["val_loss"].idxmin()


def test_the_best_checkpoint_is_enough_to_decode_raw_counts(tmp_path):
    """Counts as recorded in, mm/s out, with nothing but best.pt and the decoder it is for."""
    data = made_data()
    made_trainer(tmp_path, data).fit()
    decoder = made_decoder(seed=4).eval()
    state = load_checkpoint(tmp_path / "best.pt", decoder)
    raw = torch.as_tensor(data.counts_scaler.inverse(data.parts["test"].counts))
    scaled = (raw - state["mean"]["counts"]) / state["std"]["counts"]
    with torch.no_grad():
        decoded = (
            decoder(scaled[None].float())[0][0] * state["std"]["target"] + state["mean"]["target"]
        )
    np.testing.assert_allclose(decoded, decode_parts(decoder, data)["test"], rtol=1e-4, atol=1e-3)
    assert state["units"] == [["M1 001", "M1", row] for row in range(5)]


def test_selecting_on_test_takes_its_r2(tmp_path):
    data = made_data(with_val=False)
    history = made_trainer(tmp_path, data, epochs=15, lr=0.05, select_on="test").fit()
    assert (
        load_checkpoint(tmp_path / "best.pt", made_decoder())["epoch"]
        == history["test_r2"].idxmax()
    )
    assert history["val_loss"].isna().all()


@pytest.mark.parametrize("window", [Window("sequence", 20, 10, 3), Window("history", 5, 1, 4)])
def test_a_stretch_of_the_test_part_is_scored_beside_it_and_changes_nothing(tmp_path, window):
    """Weights, test columns and selection are those of a run without it.

    The columns of the stretch are the stream's, cut out.
    """
    data, plain = made_holdout(window), made_data(with_val=False, window=window)
    settings = {"epochs": 5, "lr": 0.05, "select_on": "test"}
    history = made_trainer(tmp_path / "rest", data, **settings).fit()
    without = made_trainer(tmp_path / "plain", plain, **settings).fit()
    assert (
        list(history.columns) == history_columns(("val", "test", "holdout"))
        and "holdout_loss" not in without
    )
    same = [name for name in without if not name.startswith("val_") and name != "seconds"]
    pd.testing.assert_frame_equal(history[same], without[same], check_exact=True)
    states = [
        torch.load(tmp_path / name / "best.pt", weights_only=True) for name in ("rest", "plain")
    ]
    assert states[0]["epoch"] == states[1]["epoch"] == history["test_r2"].idxmax()
    decoder = made_decoder()
    load_checkpoint(tmp_path / "rest" / "last.pt", decoder)
    decoded, true = decode_parts(decoder, data)["test"], data.parts["test"].target
    first = data.slices["test"].start
    for name in ("val", "holdout"):
        bins = slice(data.slices[name].start - first, data.slices[name].stop - first)
        error = (decoded - true)[bins]
        assert history[f"{name}_loss"].iloc[-1] == pytest.approx((error**2).mean())
    saved = pd.read_csv(tmp_path / "rest" / "history.csv")
    np.testing.assert_allclose(saved, history)


def test_the_test_part_is_decoded_once_an_epoch(tmp_path):
    trainer, streams = made_trainer(tmp_path, made_holdout(), epochs=2, select_on="test"), []

    def note(decoder, inputs):
        if not decoder.training and len(inputs[0]) == 1:
            streams.append(inputs[0].shape[1])

    trainer.decoder.register_forward_pre_hook(note)
    trainer.fit()
    assert streams == [200, 200, 200]


def test_a_run_with_a_stretch_goes_on_where_it_stopped(tmp_path):
    whole = made_trainer(tmp_path / "whole", made_holdout(), epochs=4, select_on="test").fit()
    made_trainer(tmp_path / "part", made_holdout(), epochs=2, select_on="test").fit()
    resumed = made_trainer(
        tmp_path / "part", made_holdout(), made_decoder(seed=5), epochs=4, select_on="test"
    ).fit()
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )


def test_stops_when_the_validation_loss_has_not_fallen_for_long(tmp_path):
    history = made_trainer(tmp_path, epochs=500, lr=0.1, patience=3).fit()
    assert len(history) < 500
    assert len(history) - 1 - history["val_loss"].idxmin() == 3


def test_the_same_seed_gives_the_same_result_to_the_last_bit(tmp_path):
    first, second = (made_trainer(tmp_path / name).fit() for name in "ab")
    pd.testing.assert_frame_equal(
        first.drop(columns="seconds"), second.drop(columns="seconds"), check_exact=True
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        None,
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=9),
        partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0),
    ],
)
def test_an_interrupted_run_goes_on_as_if_it_never_stopped(tmp_path, scheduler):
    whole = made_trainer(tmp_path / "whole", epochs=9, scheduler=scheduler).fit()
    part = made_trainer(tmp_path / "part", epochs=9, scheduler=scheduler)
    train_epoch = part._train_epoch

    def killed():
        if len(part.history) == 5:
            raise KeyboardInterrupt
        return train_epoch()

    part._train_epoch = killed
    with pytest.raises(KeyboardInterrupt):
        part.fit()
    # killed between the row and last.pt: a row too many, a file half-written
    with (tmp_path / "part" / "history.csv").open("a") as file:
        file.write("5,1,1\n")
    (tmp_path / "part" / "last.pt.123.part").write_bytes(b"half")
    torch.manual_seed(77)
    resumed = made_trainer(
        tmp_path / "part", decoder=made_decoder(seed=5), epochs=9, scheduler=scheduler
    ).fit()
    pd.testing.assert_frame_equal(
        resumed.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )
    np.testing.assert_allclose(
        pd.read_csv(tmp_path / "part" / "history.csv").drop(columns="seconds"),
        whole.drop(columns="seconds"),
    )
    weights = [
        torch.load(tmp_path / name / "last.pt", weights_only=True)["decoder"]
        for name in ("whole", "part")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_finished_training_is_not_trained_further(tmp_path):
    first = made_trainer(tmp_path).fit()
    before = (tmp_path / "last.pt").read_bytes()
    again = made_trainer(tmp_path, decoder=made_decoder(seed=3)).fit()
    pd.testing.assert_frame_equal(first, again)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_the_learning_rate_follows_its_schedule(tmp_path):
    history = made_trainer(
        tmp_path,
        epochs=4,
        scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    ).fit()
    np.testing.assert_allclose(history["lr"], [1e-2, 1e-2, 5e-3, 2.5e-3, 1.25e-3])


def test_a_loss_that_is_lost_stops_the_run_and_keeps_the_last_good_epoch(tmp_path):
    trainer = made_trainer(tmp_path, clip_norm=None)
    train_epoch = trainer._train_epoch

    def diverges():
        if len(trainer.history) == 3:
            with torch.no_grad():
                trainer.decoder.head.weight.fill_(torch.nan)
        return train_epoch()

    trainer._train_epoch = diverges
    with pytest.raises(
        BciDecodeError,
        match=r"the train loss became nan at epoch 3; last.pt keeps epoch 2; lower optimizer.lr",
    ):
        trainer.fit()
    assert load_checkpoint(tmp_path / "last.pt", made_decoder())["epoch"] == 2
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [0, 1, 2]


def test_a_checkpoint_of_another_model_or_of_other_data_is_refused(tmp_path):
    made_trainer(tmp_path, fingerprint="abc").fit()
    with pytest.raises(
        BciDecodeError,
        match=r"last.pt: is of another model \(recurrent.weight_ih_l0 is \(36, 5\) there "
        r"and \(27, 5\) here\)",
    ):
        made_trainer(tmp_path, decoder=made_decoder(hidden=9)).fit()
    with pytest.raises(
        BciDecodeError, match=r"last.pt: was trained on other data; start again with overwrite=true"
    ):
        made_trainer(tmp_path, fingerprint="xyz").fit()


def test_a_best_checkpoint_cannot_be_trained_further(tmp_path):
    made_trainer(tmp_path).fit()
    (tmp_path / "best.pt").replace(tmp_path / "last.pt")
    with pytest.raises(BciDecodeError, match=r"last.pt: lacks fingerprint, optimizer"):
        made_trainer(tmp_path).fit()


def test_a_schedule_that_cannot_step_is_said(tmp_path):
    with pytest.raises(BciDecodeError, match=r"scheduler: cannot step"):
        made_trainer(
            tmp_path, scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=0)
        ).fit()


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    made_trainer(tmp_path).fit()
    whole = (tmp_path / "last.pt").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(
            BciDecodeError, match=r"last.pt: is damaged, or no checkpoint of this project"
        ) as failure:
            made_trainer(tmp_path).fit()
        assert "\n" not in str(failure.value)
    with pytest.raises(BciDecodeError, match=r"no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt", made_decoder())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "trainer.epochs: is 0"),
        ({"batch_size": -1}, "trainer.batch_size: is -1"),
        ({"patience": 0}, "trainer.patience: is 0"),
        ({"clip_norm": 0.0}, "trainer.clip_norm: is 0.0"),
        ({"select_on": "train"}, "trainer.select_on: is 'train'; choose val, last or test"),
        ({"device": "tpu"}, "trainer.device: is 'tpu'; choose auto, cpu or cuda"),
    ],
)
def test_bad_settings(tmp_path, changes, words):
    with pytest.raises(BciDecodeError, match=words):
        made_trainer(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_without_a_validation_part_nothing_can_be_chosen_on_it(tmp_path):
    for changes in ({"select_on": "val"}, {"select_on": "test", "patience": 3}):
        with pytest.raises(BciDecodeError, match=r"data.split.val: is 0"):
            made_trainer(tmp_path, made_data(with_val=False), **changes)


def test_a_schedule_on_the_validation_loss_needs_one(tmp_path):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
    with pytest.raises(BciDecodeError, match=r"scheduler: follows the validation loss"):
        made_trainer(tmp_path, made_data(with_val=False), select_on="test", scheduler=plateau)


@pytest.mark.parametrize("shuffle", [False, True])
def test_shuffle_decides_the_order_of_the_windows(tmp_path, shuffle):
    """The windows' first bins as the decoder sees them in one pass: in order, or shuffled."""
    data = made_data()
    data.parts["train"].counts[:, 0] = np.arange(400)
    trainer, seen = made_trainer(tmp_path, data, shuffle=shuffle, batch_size=7), []
    trainer.decoder.register_forward_pre_hook(
        lambda _, inputs: seen.extend(inputs[0][:, 0, 0].tolist())
    )
    trainer._train_epoch()
    expected = data.window.starts(400).tolist()
    assert sorted(seen) == expected
    assert (seen == expected) is not shuffle


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_gradients_are_clipped(tmp_path, clip_norm):
    trainer, norms = made_trainer(tmp_path, clip_norm=clip_norm), []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            sum(p.grad.square().sum() for p in trainer.decoder.parameters()).sqrt().item()
        )
    )
    trainer._train_epoch()
    assert (max(norms) <= 0.1 + 1e-5) is (clip_norm is not None)


def test_a_gpu_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BciDecodeError, match="trainer.device: is cuda, but PyTorch sees no GPU"):
        made_trainer(tmp_path, device="cuda")
    assert made_trainer(tmp_path, device="auto").device.type == "cpu"


def test_the_stopwatch_knows_the_parts_of_training(tmp_path):
    trainer = made_trainer(tmp_path, epochs=3)
    trainer.fit()
    times = {name: number for name, (number, _) in trainer.stopwatch.parts.items()}
    assert times == {
        "load compiled layers": 1,
        "untrained scores": 1,
        "write": 4,
        "start to first epoch": 1,
        "first batch": 1,
        "training epoch": 3,
        "evaluation": 3,
    }
    seconds = {name: taken for name, (_, taken) in trainer.stopwatch.parts.items()}
    assert (
        0 < seconds["first batch"] < seconds["training epoch"]
        and seconds["start to first epoch"] > 0
    )
