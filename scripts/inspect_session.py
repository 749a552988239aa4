"""Say what is in a recording. The same as `bci-decode inspect`."""

from bci_decode.cli import inspect
from bci_decode.errors import run_cli

if __name__ == "__main__":
    run_cli(inspect)
