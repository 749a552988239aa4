"""What a stranger's checkpoint may name, hold and weigh: layers of known packages, nothing else."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from composing import compose

from bci_decode.errors import BciDecodeError
from bci_decode.runs.load import load_run
from bci_decode.runs.run import run

SMALL = ["session.minutes=1", "trainer.epochs=1", "model.recurrent.hidden_size=6", "figures=none"]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """`best.pt` of a small run."""
    home = tmp_path_factory.mktemp("home")
    run(compose(*SMALL, f"data_dir={home / 'data'}"), home / "seed0", progress=False)
    return home / "seed0" / "best.pt"


def refusal(state, path, match):
    torch.save(state, path)
    with pytest.raises(BciDecodeError, match=match) as error:
        load_run(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nnx.Linear",
        "torch.nn",
        "torch.nn.init.normal_",
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.modules.module.torch.load",
        "torch.nn.modules.module.sys.modules",
        "torch.nn.parameter.Parameter",
        "bci_decode.files.md5_of",
        "bci_decode.files.Path",
        "bci_decode.data.simulate.simulated_session",
        "bci_decode.runs.load.load_run",
        "bci_decode.runs.load.json.loads",
        "bci_decode.models..Decoder",
        "bci_decode.models.decoder.torch.load",
        "bci_decode.realtime.interfaces.adapter.RunModule",
        ["torch.nn.Linear"],
    ],
)
def test_only_layers_and_models_are_made(best, tmp_path, target):
    for place in ("whole", "nested"):
        state = torch.load(best, weights_only=True)
        settings = state["model"]["settings"]
        if place == "whole":
            settings["_target_"] = target
        else:
            settings["head"]["more"] = [[{"_target_": target}]]
        refusal(state, tmp_path / "best.pt", "as a part of its model; if you trust the file")


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_", "_other_"])
def test_no_other_key_of_hydra_is_followed(best, tmp_path, key):
    state = torch.load(best, weights_only=True)
    state["model"]["settings"]["head"][key] = ["x"]
    refusal(state, tmp_path / "best.pt", f"has {key} in the settings")


@pytest.mark.parametrize("part", ["model", "data"])
def test_nothing_is_resolved(best, tmp_path, part):
    state = torch.load(best, weights_only=True)
    settings = state["model"]["settings"]["head"] if part == "model" else state["data"]
    settings["source"] = "${oc.env:HOME}"
    refusal(state, tmp_path / "best.pt", f"{part}: is not as this project writes it")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("hidden_size", 2_000_000_000, "a size of 2000000000"),
        ("num_layers", 1_000_000, "a size of 1000000"),
        ("hidden_size", 3_000, "is of another model"),  # its weights would take 150 MB
        ("hidden_size", 9_000, "its model cannot be made .is 9000 in 2 layers"),
        ("hidden_size", -1, "its model cannot be made"),
        ("hidden_size", "many", "its model cannot be made"),
        ("unknown", 1, "its model cannot be made"),
    ],
)
def test_a_model_larger_than_its_weights_is_not_made(best, tmp_path, key, value, match):
    state = torch.load(best, weights_only=True)
    state["model"]["settings"]["recurrent"][key] = value
    refusal(state, tmp_path / "best.pt", match)


def test_tensors_larger_than_their_file_are_not_allocated(best, tmp_path):
    state = torch.load(best, weights_only=True)
    state["decoder"]["head.bias"] = torch.zeros(1).expand(1 << 40)
    refusal(state, tmp_path / "best.pt", "is damaged, or no checkpoint")


def test_other_formats_of_torch_are_not_read(best, tmp_path):
    """The older one and TorchScript, which can run code, and a compressed archive."""
    state, path = torch.load(best, weights_only=True), tmp_path / "best.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    packed, script = io.BytesIO(), io.BytesIO(best.read_bytes())
    with zipfile.ZipFile(best) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in source.infolist():
            new.writestr(member.filename, source.read(member))
    with zipfile.ZipFile(script, "a") as archive:
        archive.comment = b""
        archive.writestr("archive/constants.pkl", b"")
    for content in (
        path.read_bytes(),
        packed.getvalue(),
        script.getvalue(),
        b"x" + best.read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(BciDecodeError, match="is damaged, or no checkpoint"):
            load_run(path)
