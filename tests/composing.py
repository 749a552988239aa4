"""The configuration that the words of a command line mean."""

from bci_decode.runs.compose import compose_config as compose

__all__ = ["compose"]
