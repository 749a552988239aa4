"""Fetch the published recordings, or list them. The same as `bci-decode download`."""

from bci_decode.cli import download
from bci_decode.errors import run_cli

if __name__ == "__main__":
    run_cli(download)
