"""Compare runs: figures and tables of all runs below a folder. The same as `bci-decode compare`."""

from bci_decode.cli import compare
from bci_decode.errors import run_cli

if __name__ == "__main__":
    run_cli(compare)
