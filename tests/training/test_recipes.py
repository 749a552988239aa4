"""Parts of recipes: shifted grids, augmentation, schedules, averaged weights, ensembles."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from recordings import recording, write_mat73
from scipy import signal
from torch.nn import functional as F
from toys import config, made_data, made_decoder, made_trainer

from bci_decode.config import DataConfig, SplitConfig, WindowConfig
from bci_decode.data.binning import bin_session
from bci_decode.data.dataset import prepare
from bci_decode.data.parts import Part, Scaler
from bci_decode.data.session import read_session
from bci_decode.errors import BciDecodeError
from bci_decode.evaluation.decoding import decode_parts, predictor
from bci_decode.evaluation.filters import low_pass
from bci_decode.models.ensemble import Ensemble
from bci_decode.training.augmentation import Augmentation
from bci_decode.training.averaging import WeightAverage
from bci_decode.training.checkpoint import load_checkpoint
from bci_decode.training.schedules import WarmupCosine
from bci_decode.training.windows import TrainingWindows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return read_session(write_mat73(tmp_path_factory.mktemp("grids") / "a.mat", recording()))


def shifted_data(session, grids=4, length=16):
    window = WindowConfig(length=length, stride=8, burn_in=4, grids=grids)
    split = SplitConfig(train=0.6, val=0.0, gap=0.0)
    keys = DataConfig(window=window, split=split)
    binned = bin_session(session, **keys.binning_kwargs(), grids=grids)
    return binned, prepare(binned, keys)


def test_shifted_grids_count_the_spikes_between_their_own_edges(session):
    binned, data = shifted_data(session)
    assert len(binned.shifted) == len(data.shifted) == 3
    for number, grid in enumerate(binned.shifted, 1):
        np.testing.assert_allclose(grid.edges, binned.edges[:-1] + number * 0.016, atol=1e-6)
        for column, times in enumerate(session.spike_times):
            np.testing.assert_array_equal(
                grid.counts[:, column], np.histogram(times, grid.edges)[0]
            )
        position = [np.interp(grid.edges, session.t, axis) for axis in session.finger_pos.T[:2]]
        np.testing.assert_allclose(grid.kinematics, np.diff(position).T / 0.064, atol=1e-6)


def test_shifted_grids_stay_inside_the_training_part(session):
    binned, data = shifted_data(session)
    end = binned.edges[data.slices["train"].stop]
    for part in data.shifted:
        assert len(part) == len(data.parts["train"]) - 1
        assert part.time[-1] < end


def test_a_window_lies_in_one_grid_and_every_grid_is_drawn(session):
    """Each window's counts are those of consecutive bins of one grid."""
    _, data = shifted_data(session, length=9)
    windows = TrainingWindows(data, CPU)
    parts = [data.parts["train"], *data.shifted]
    generator, drawn = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        for bins in windows.order(True, generator):
            assert (bins.diff() == 1).all()
            counts = windows.counts[bins].numpy()
            target = data.target_scaler.inverse(windows.target_of(bins[None])[0].numpy())
            found = [
                (grid, start)
                for grid, part in enumerate(parts)
                for start in range(len(part) - 8)
                if (part.counts[start : start + 9] == counts).all()
            ]
            assert len(found) == 1
            grid, start = found[0]
            drawn.add(grid)
            np.testing.assert_allclose(
                parts[grid].target[start + 4 : start + 9], target, rtol=1e-4, atol=1e-3
            )
    assert drawn == {0, 1, 2, 3}


def test_a_part_of_one_window_uses_its_own_grid_alone():
    data = made_data()
    whole = dataclasses.replace(data.window, length=400)
    train = data.parts["train"]
    one = Part(train.time[:-1], train.counts[:-1], train.target[:-1])
    windows = TrainingWindows(dataclasses.replace(data, window=whole, shifted=(one,)), CPU)
    order = windows.order(True, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(order[0], np.arange(400))


def augmentation(**keys):
    scaler = Scaler(np.array([2.0, 0.5]), np.array([1.5, 0.7]))
    return Augmentation(config(**keys), scaler, CPU), scaler


def scaled_counts(scaler, windows=400):
    counts = np.random.default_rng(0).poisson([2.0, 0.5], (windows, 10, 2))
    return torch.as_tensor(scaler.transform(counts, np.float32)), counts


def test_noise_differs_by_bin_and_an_offset_by_window():
    torch.manual_seed(0)
    augment, scaler = augmentation(noise=0.5)
    scaled, _ = scaled_counts(scaler)
    added = augment(scaled) - scaled
    assert added.std() == pytest.approx(0.5, rel=0.03)
    assert added.mean(1).std() == pytest.approx(0.5 / 10**0.5, rel=0.1)
    augment, _ = augmentation(offset=0.2)
    added = augment(scaled) - scaled
    assert added[:, 0].std() == pytest.approx(0.2, rel=0.1)
    torch.testing.assert_close(added, added[:, :1].expand_as(added), rtol=0, atol=1e-6)


def test_poisson_resampling_keeps_a_share_and_draws_whole_counts_around_the_rest():
    torch.manual_seed(0)
    augment, scaler = augmentation(poisson=0.5)
    scaled, counts = scaled_counts(scaler, 4000)
    drawn = scaler.inverse(augment(scaled).double().numpy())
    np.testing.assert_allclose(drawn, drawn.round(), atol=1e-5)
    np.testing.assert_allclose(augment.counts(scaled), counts, atol=1e-5)
    for count in (0, 1, 3):
        values = drawn[counts == count].round()
        kept = 0.5 + 0.5 * np.exp(-count) * count**count / (1, 1, 2, 6)[count]
        assert (values == count).mean() == pytest.approx(kept, abs=0.02)
        assert values.mean() == pytest.approx(count, abs=0.05)


def test_the_schedule_rises_and_falls_in_steps():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = WarmupCosine(optimizer, epochs=4, warmup=1)
    schedule.set_steps_per_epoch(5)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])
    assert rates[5:] == pytest.approx([0.5 * (1 + np.cos(np.pi * k / 15)) for k in range(15)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="warmup is 4 of 4"):
        WarmupCosine(optimizer, epochs=4, warmup=4)


def test_the_trainer_steps_it_to_zero(tmp_path):
    schedule = partial(WarmupCosine, epochs=3)
    trainer = made_trainer(tmp_path, scheduler=schedule, epochs=3)
    lr = trainer.fit()["lr"]
    assert trainer.scheduler.last_epoch == 3 * -(-len(trainer.training) // 8)
    assert lr[0] == 1e-2 and (lr.diff()[1:] < 0).all() and lr[3] < 1e-9


def test_averaged_weights_are_scored_and_kept(tmp_path):
    """The average is computed again from the weights after each step."""
    trainer = made_trainer(tmp_path, epochs=1, ema=0.9, select_on="last")
    steps = []
    update = trainer.averaged.update_parameters
    trainer.averaged.update_parameters = lambda model: (
        steps.append(model.head.weight.detach().clone()),
        update(model),
    )
    history = trainer.fit()
    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.9 * expected + 0.1 * weight
    kept = made_decoder(seed=5)
    load_checkpoint(tmp_path / "best.pt", kept)
    torch.testing.assert_close(kept.head.weight, expected)
    decoded = decode_parts(kept, trainer.data)["test"]
    loss = ((decoded - trainer.data.parts["test"].target) ** 2).mean()
    assert history["test_loss"].iloc[-1] == pytest.approx(loss, rel=1e-6)
    raw = made_decoder(seed=5)
    load_checkpoint(tmp_path / "last.pt", raw)
    torch.testing.assert_close(raw.head.weight, steps[-1])


def test_running_statistics_are_averaged_with_the_weights():
    model = torch.nn.BatchNorm1d(3, momentum=1.0)
    average, expected = WeightAverage(model, 0.9), None
    for step in range(5):
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))
        average.update_parameters(model)
        mean = model.running_mean.clone()
        expected = mean if expected is None else 0.9 * expected + 0.1 * mean
    torch.testing.assert_close(average.module.running_mean, expected)
    assert average.module.num_batches_tracked == 5


def test_the_last_epoch_is_kept_without_a_validation_part(tmp_path):
    data = made_data(with_val=False)
    history = made_trainer(tmp_path, data, epochs=8, lr=0.1, select_on="last").fit()
    assert load_checkpoint(tmp_path / "best.pt", made_decoder())["epoch"] == 8
    assert history["val_loss"].isna().all()


def ensemble(members=3):
    return Ensemble([made_decoder(seed) for seed in range(members)])


def test_an_ensemble_decodes_the_mean_of_its_members():
    model, data = ensemble(), made_data()
    counts = data.parts["test"].counts
    alone = [predictor(member, None)(counts) for member in model.members]
    np.testing.assert_allclose(predictor(model, None)(counts), np.mean(alone, 0), atol=1e-6)
    alone = [predictor(member, 6)(counts) for member in model.members]
    np.testing.assert_allclose(predictor(model, 6)(counts), np.mean(alone, 0), atol=1e-6)


def test_members_learn_apart_from_each_other(tmp_path):
    """A member's step depends on its own loss and gradient norm: alone it learns the same."""
    model = ensemble(2)
    trainer = made_trainer(tmp_path, decoder=model, epochs=1, shuffle=False, noise=0.0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.fit()
    for seed in range(2):
        single = made_decoder(seed, dropout=0.0)
        made_trainer(tmp_path / str(seed), decoder=single, epochs=1, shuffle=False).fit()
        for name, weight in single.state_dict().items():
            torch.testing.assert_close(model.members[seed].state_dict()[name], weight)


def test_members_see_the_windows_in_orders_of_their_own(tmp_path):
    trainer = made_trainer(tmp_path, decoder=ensemble(2), epochs=1)
    seen = [[], []]
    inner = trainer._outputs_and_loss
    trainer._outputs_and_loss = lambda number, bins, y: (
        seen[number].append(bins[:, 0]),
        inner(number, bins, y),
    )[1]
    trainer.fit()
    first, second = (torch.cat(starts) for starts in seen)
    assert (first != second).any() and (first.sort()[0] == second.sort()[0]).all()


def test_reconstruction_is_the_poisson_likelihood_of_the_counts(tmp_path):
    data = made_data()
    counts = np.abs(data.parts["train"].counts).round()
    parts = data.parts | {"train": dataclasses.replace(data.parts["train"], counts=counts)}
    data = dataclasses.replace(data, parts=parts)
    decoder = made_decoder(dropout=0.0)
    trainer = made_trainer(tmp_path, data, decoder, epochs=1, reconstruction=0.7)
    bins = trainer.training.windows[:4]
    y = trainer.training.target_of(bins)
    outputs, loss = trainer._outputs_and_loss(0, bins, y)
    states, _ = decoder.recurrent(torch.as_tensor(counts)[bins])
    rates = trainer.reconstruction.maps[0](states).exp().double()
    wanted = torch.as_tensor(counts)[bins].double()
    likelihood = (rates - wanted * rates.log()).mean()
    assert loss.item() == pytest.approx((F.mse_loss(outputs, y) + 0.7 * likelihood).item(), 1e-5)
    before = trainer.reconstruction.maps[0].weight.detach().clone()
    trainer.fit()
    assert (trainer.reconstruction.maps[0].weight != before).all()
    assert set(torch.load(tmp_path / "best.pt")["decoder"]) == set(decoder.state_dict())


ALL = {"noise": 0.3, "offset": 0.1, "poisson": 0.3, "reconstruction": 0.1, "ema": 0.9}


def test_a_recipe_of_all_parts_resumes_to_the_last_bit(tmp_path):
    schedule = partial(WarmupCosine, epochs=4, warmup=1)
    runs = {}
    for name, stops in {"whole": [4], "cut": [2, 4]}.items():
        for epochs in stops:
            trainer = made_trainer(
                tmp_path / name, decoder=ensemble(2), scheduler=schedule, epochs=epochs, **ALL
            )
            runs[name] = trainer.fit()
    pd.testing.assert_frame_equal(
        runs["whole"].drop(columns="seconds"), runs["cut"].drop(columns="seconds")
    )
    whole, cut = (torch.load(tmp_path / name / "best.pt")["decoder"] for name in runs)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_output_filter_is_a_causal_bessel_filter():
    """The frequency response is that of the analog prototype, and half the power at the cut-off."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2))
    filtered = low_pass(values, 0.1)
    changed = values.copy()
    changed[200:] += 5
    np.testing.assert_array_equal(low_pass(changed, 0.1)[:200], filtered[:200])
    np.testing.assert_allclose(low_pass(np.ones((50, 1)), 0.1), 1.0)
    wave = np.sin(2 * np.pi * 0.1 * np.arange(4000))[:, None]
    assert low_pass(wave, 0.1)[2000:].std() / wave[2000:].std() == pytest.approx(0.5**0.5, rel=0.01)
    b, a = signal.bessel(4, 0.2, norm="mag")
    start = signal.lfilter_zi(b, a)[:, None] * values[:1]
    expected, _ = signal.lfilter(b, a, values, axis=0, zi=start)
    np.testing.assert_allclose(filtered, expected, atol=1e-9)


def test_low_pass_filters_every_scored_part(tmp_path):
    data = dataclasses.replace(made_data(), low_pass=0.2)
    decoder = made_decoder()
    plain = decode_parts(decoder, dataclasses.replace(data, low_pass=None))["test"]
    np.testing.assert_allclose(decode_parts(decoder, data)["test"], low_pass(plain, 0.2), rtol=1e-6)


def test_a_cut_off_above_half_the_rate_of_bins_is_refused(session):
    split = SplitConfig(train=0.5, val=0.0, gap=0.0)
    keys = DataConfig(low_pass=8.0, split=split)
    with pytest.raises(BciDecodeError, match=r"data.low_pass: is 8.0 Hz .* less than 7.81"):
        prepare(bin_session(session, **keys.binning_kwargs()), keys)


def test_a_delay_decodes_the_hand_of_before(session):
    keys = DataConfig(delay=0.128)
    binned, now = bin_session(session, **keys.binning_kwargs()), bin_session(session)
    np.testing.assert_array_equal(binned.counts, now.counts[2:])
    np.testing.assert_allclose(binned.kinematics, now.kinematics[:-2])
    with pytest.raises(BciDecodeError, match=r"data.delay: is 100 s, the recording only"):
        bin_session(session, **DataConfig(delay=100.0).binning_kwargs())
