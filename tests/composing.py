"""The configuration that the words of a command line stand for, composed as a test wants it."""

import hydra

from bci_decode.runs.compose import CONF, register_configs


def compose(*overrides: str):
    register_configs()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))
