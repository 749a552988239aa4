"""The model card of a run: what it decodes, from which data, how well, and what it is not for."""

from __future__ import annotations

from typing import Any

from bci_decode.data.catalog import CITATION, LICENSE, RECORD_PAGE

PUBLISHED = ("recorded", "excerpt")  # kinds of recordings, of the published data set
NOT_STATED = "not stated; ask whoever shares this file"


def model_card(state: dict[str, Any], report: dict[str, Any], data_license: str | None) -> str:
    """The card as Markdown, from a run's checkpoint and report.

    `data_license` is what the user states of an own file.
    """
    protocol = report["protocol"]
    sections = {
        "Data": _data(report, data_license),
        "Model": _model(state, report),
        "Protocol": _protocol(report),
        "Test scores": _scores(report),
        "Use and limits": _limits(report),
        "How to load it": LOADING,
    }
    title = f"# {report['model']}: {protocol['target']} from spikes, {report['session']}"
    return "\n\n".join([title, *(f"## {name}\n\n{text}" for name, text in sections.items())]) + "\n"


def _data(report: dict[str, Any], data_license: str | None) -> str:
    kind, data = report.get("recording", "own file"), report["data"]
    lines = [
        f"- Session: {report['session']}, {data['seconds'] / 60:.1f} minutes, MD5 {data['md5']}",
    ]
    if kind == "simulated":
        lines.append("- Simulated: no animal and no license; it is no evidence about brains.")
    elif kind in PUBLISHED:
        part = "An excerpt of a" if kind == "excerpt" else "A"
        lines.append(f"- {part} published recording ({RECORD_PAGE}), license {LICENSE}.")
        lines.append(f"- Citation: {CITATION}")
    else:
        lines.append("- A recording of the lab that trained the decoder.")
        lines.append(f"- License of the data: {data_license or NOT_STATED}")
    return "\n".join(lines)


def _model(state: dict[str, Any], report: dict[str, Any]) -> str:
    about = state["model"]
    lines = [
        f"- {report['model']} ({about['settings'].get('_target_', '')}), "
        f"{report['parameters']} parameters, seed {report['seed']}",
        f"- {len(state['units'])} inputs (units by channel and row), outputs "
        f"{', '.join(state['axes'])} in {report['protocol']['unit']}",
    ]
    if about.get("members", 1) > 1:
        lines.append(f"- An ensemble of {about['members']} networks, whose outputs are averaged")
    if parent := report.get("parent"):
        lines.append(
            f"- Recalibrated from a run of {parent['session']} with {parent['seconds']:g} s"
        )
    code = f"- Code: bci_decode {report['versions']['bci_decode']}, license MIT"
    return "\n".join([*lines, code])


def _protocol(report: dict[str, Any]) -> str:
    about = report["protocol"]
    bins = ", ".join(f"{name} {a} to {b}" for name, (a, b) in about["split_bins"].items())
    direction = "from both directions" if about["bidirectional"] else "from the past alone"
    return "\n".join(
        [
            f"- Bins of {about['bin_width_s'] * 1000:g} ms; the hand lags {about['lag_s']:g} s",
            f"- Decoded: {about['target']} of {about['source']}, {direction}",
            f"- Units: {about['units']}, area {about['area']}, from {about['min_rate_hz']:g} Hz",
            f"- Split by {about['split_by']}, in bins: {bins}",
            f"- Selection of the epoch: {report['selection_rule']}",
            f"- Scored on {about['scored_on']}",
        ]
    )


def _scores(report: dict[str, Any]) -> str:
    test, names = report["scores"]["test"], ("r2", "cc", "rmse", "snr_db")
    axes = [name.removeprefix("r2") for name in test if name.startswith("r2_")]
    unit = report["protocol"]["unit"]
    lines = [
        f"| | R² | CC | RMSE, {unit} | SNR, dB | R², 95 % | R² by chance |",
        "| --- " * 7 + "|",
    ]
    for axis in (*axes, ""):
        values = [_number(test[name + axis]) for name in names]
        ends = report["intervals"]["test"].get(f"r2{axis}")
        chance = report["chance"]["test"].get(f"r2{axis}")
        values.append(" to ".join(map(_number, ends)) if ends else "")
        values.append(_number(chance["mean"]) if chance else "")
        lines.append(f"| {' | '.join([axis[1:] or 'mean', *values])} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _limits(report: dict[str, Any]) -> str:
    lines = [
        "- For research on decoding. It is no medical device.",
        "- It decodes recordings of the same electrodes. Units are matched by channel and row, and "
        "from day to day they change: recalibrate it, and score it again.",
        "- The interval is about other stretches of this recording, not about other recordings.",
    ]
    if report.get("select_on") == "test":
        lines.append("- The epoch was selected on the test part: the test scores are too good.")
    if report["protocol"]["delay_s"] > 0:
        lines.append(f"- Live, it waits {report['protocol']['delay_s']:g} s for later spikes.")
    return "\n".join(lines)


LOADING = """With bci_decode installed, in a shell or in Python:

```
bci-decode evaluate FILE.safetensors --session SESSION.mat
```

```python
import bci_decode as bd

run = bd.load_run("FILE.safetensors")
decoded = run.decode("SESSION.mat")
```"""
