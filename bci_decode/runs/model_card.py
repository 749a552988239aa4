"""The model card of a run: what it decodes, from which data, how well, and what it is not for."""

from __future__ import annotations

from typing import Any

from bci_decode.config import READ_OUTS
from bci_decode.data.catalog import CITATION, LICENSE, RECORD_PAGE

PUBLISHED = ("recorded", "excerpt")  # kinds of recordings, of the published data set
NOT_STATED = "not stated; ask whoever shares this file"


def model_card(state: dict[str, Any], report: dict[str, Any], data_license: str | None) -> str:
    """The card as Markdown, from a run's checkpoint and report.

    `data_license` is what the user states of an own file.
    """
    target = report["protocol"]["target"]
    sections = {
        "Data": _data([report], data_license),
        "Model": _model(state, report),
        "Protocol": _protocol(report),
        "Test scores": _scores(report),
        "Use and limits": _limits(report),
        "How to load it": LOADING,
    }
    return _card(f"{report['model']}: {target} from spikes, {report['session']}", sections)


def joint_card(state: dict[str, Any], report: dict[str, Any], data_license: str | None) -> str:
    """The card of a decoder of many sessions; `report["reports"]` are those of the sessions."""
    reports = report["reports"]
    first, target = reports[0], report["protocol"]["target"]
    sections = {
        "Data": _data(reports, data_license),
        "Model": _joint_model(state, report),
        "Protocol": _protocol(first, many=True),
        "Test scores": _joint_scores(report),
        "Use and limits": _limits(first),
        "How to load it": JOINT_LOADING,
    }
    title = f"{report['model']}: {target} from spikes, one decoder of {len(reports)} sessions"
    return _card(title, sections)


def _card(title: str, sections: dict[str, str]) -> str:
    texts = (f"## {name}\n\n{text}" for name, text in sections.items())
    return "\n\n".join([f"# {title}", *texts]) + "\n"


def _data(reports: list[dict[str, Any]], data_license: str | None) -> str:
    """The sessions, then what is to be said of each kind of them once."""
    lines = [
        f"- Session: {one['session']}, {one['data']['seconds'] / 60:.1f} minutes, "
        f"MD5 {one['data']['md5']}"
        for one in reports
    ]
    kinds = dict.fromkeys(one.get("recording", "own file") for one in reports)
    of_kinds = [line for kind in kinds for line in _of_kind(kind, data_license)]
    return "\n".join([*lines, *of_kinds])


def _of_kind(kind: str, data_license: str | None) -> list[str]:
    if kind == "simulated":
        return ["- Simulated: no animal and no license; it is no evidence about brains."]
    if kind in PUBLISHED:
        part = "An excerpt of a" if kind == "excerpt" else "A"
        return [
            f"- {part} published recording ({RECORD_PAGE}), license {LICENSE}.",
            f"- Citation: {CITATION}",
        ]
    return [
        "- A recording of the lab that trained the decoder.",
        f"- License of the data: {data_license or NOT_STATED}",
    ]


def _model(state: dict[str, Any], report: dict[str, Any]) -> str:
    about = state["model"]
    lines = [
        _network(state, report),
        f"- {len(state['units'])} inputs (units by channel and row), outputs "
        f"{', '.join(state['axes'])} in {report['protocol']['unit']}",
    ]
    if about.get("members", 1) > 1:
        lines.append(f"- An ensemble of {about['members']} networks, whose outputs are averaged")
    if parent := report.get("parent"):
        how = f"Recalibrated from a run of {parent['session']}"
        if many := parent.get("sessions"):
            how = f"Calibrated from a run of {len(many)} sessions"
        lines.append(f"- {how} with {parent['seconds']:g} s")
    return "\n".join([*lines, _code(report)])


def _joint_model(state: dict[str, Any], report: dict[str, Any]) -> str:
    units = [len(one["units"]) for one in state["sessions"]]
    shared = state["model"]["read_out"] == READ_OUTS[0]
    lines = [
        _network(state, report),
        f"- A read-in for each of {len(units)} sessions, from {min(units)} to {max(units)} units "
        "(by channel and row); one core",
        f"- {'One read-out' if shared else 'A read-out for each session'}: "
        f"{', '.join(state['axes'])} in {report['protocol']['unit']}",
        _code(report),
    ]
    return "\n".join(lines)


def _network(state: dict[str, Any], report: dict[str, Any]) -> str:
    target = state["model"]["settings"].get("_target_", "")
    size, seed = report["parameters"], report["seed"]
    return f"- {report['model']} ({target}), {size} parameters, seed {seed}"


def _code(report: dict[str, Any]) -> str:
    return f"- Code: bci_decode {report['versions']['bci_decode']}, license MIT"


def _protocol(report: dict[str, Any], many: bool = False) -> str:
    about = report["protocol"]
    bins = ", ".join(f"{name} {a} to {b}" for name, (a, b) in about["split_bins"].items())
    split = "each session by itself" if many else f"in bins: {bins}"
    direction = "from both directions" if about["bidirectional"] else "from the past alone"
    return "\n".join(
        [
            f"- Bins of {about['bin_width_s'] * 1000:g} ms; the hand lags {about['lag_s']:g} s",
            f"- Decoded: {about['target']} of {about['source']}, {direction}",
            f"- Units: {about['units']}, area {about['area']}, from {about['min_rate_hz']:g} Hz",
            f"- Split by {about['split_by']}, {split}",
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


def _joint_scores(report: dict[str, Any]) -> str:
    """A row for each session, and their mean."""
    lines = [
        f"| | units | R² | CC | RMSE, {report['protocol']['unit']} | R², 95 % | R² by chance |",
        "| --- " * 7 + "|",
    ]
    for one in report["reports"]:
        ends = one["intervals"]["test"].get("r2")
        chance = one["chance"]["test"].get("r2")
        cells = [one["session"], str(one["protocol"]["units_used"]), *_three(one)]
        cells.append(" to ".join(map(_number, ends)) if ends else "")
        cells.append(_number(chance["mean"]) if chance else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, f"| {' | '.join(['mean', '', *_three(report), '', ''])} |"])


def _three(report: dict[str, Any]) -> list[str]:
    return [_number(report["scores"]["test"][name]) for name in ("r2", "cc", "rmse")]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _limits(report: dict[str, Any]) -> str:
    lines = [
        "- For research on decoding. It is no medical device.",
        "- It decodes recordings of the same electrodes. Units are matched by channel and row, and "
        "from day to day they change: recalibrate it, and score it again.",
        "- An interval is about other stretches of a recording, not about other recordings.",
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

JOINT_LOADING = """With bci_decode installed, in a shell (a decoder for a new session) or in Python:

```
bci-decode calibrate FILE.safetensors NEW.mat --seconds 60
```

```python
import bci_decode as bd

joint = bd.load_joint("FILE.safetensors")
run = joint.run(joint.sessions[0])
decoded = run.decode("SESSION.mat")
```"""
