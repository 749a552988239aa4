"""The program `bci-decode`, or `python -m bci_decode`, which ends at a signal from the start."""

from __future__ import annotations

from bci_decode.signals import signals_exit


def main() -> None:
    """Run the command that the first word names; see `bci_decode.cli`."""
    signals_exit()  # while the rest is imported
    from bci_decode.cli import main as command

    command()


if __name__ == "__main__":
    main()
