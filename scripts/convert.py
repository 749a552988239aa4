"""Write a recording as .mat or .npz. The same as `bci-decode convert`."""

from bci_decode.cli import convert
from bci_decode.errors import run_cli

if __name__ == "__main__":
    run_cli(convert)
