"""Whether a checkpoint is what this project writes: its archive, then types, shapes and values.

A checkpoint may be damaged, or a stranger's. Nothing is allocated here for sizes that it only
claims, and whatever passes can be loaded without a traceback.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bci_decode.config import READ_OUTS, DataConfig, flatten

MAX_BYTES = 4 << 30  # of a file; no decoder comes near
MAX_ENTRIES, MAX_DEPTH = 100_000, 20  # of settings
SEAL = b"sha256:"
PLAIN = (str, bool, int, float, type(None))


def seal(archive: io.BytesIO) -> None:
    """Make the SHA-256 of an archive of `torch.save` its comment, in place.

    A checkpoint that any other program wrote has none.
    """
    with archive.getbuffer() as content:
        mark = _mark(content)
    # an archive ends with the length of its comment, two bytes, and the comment
    archive.seek(-2, io.SEEK_END)
    archive.write(len(mark).to_bytes(2, "little") + mark)


def _mark(content: bytes | memoryview) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode()


def check_archive(path: Path) -> bool:
    """Refuse, with a ValueError, a file that is no whole archive of `torch.save`.

    Every member is compared with its CRC-32, and the whole with its seal; returns whether it has
    one. Other formats that `torch.load` knows run code.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError("it is too large")
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members, mark = archive.infolist(), archive.comment
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        script = any(member.filename.endswith("/constants.pkl") for member in members)
        file.seek(0)
        if not stored or script or file.read(4) != b"PK\x03\x04" or archive.testzip():
            raise ValueError("its content is damaged")
        if mark.startswith(SEAL):
            file.seek(0)
            if _mark(file.read()[: -len(mark) - 2] + bytes(2)) != mark:
                raise ValueError("it was changed")
    return mark.startswith(SEAL)


def own_tensors(state: Any, size: int) -> None:
    """Replace all tensors in the content of a checkpoint by copies, which no file backs.

    Refuses, with a ValueError, tensors of more than `size` bytes together, and values of a type
    that this project does not write.
    """
    copies: dict[tuple, Tensor] = {}
    waiting, seen = [state], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, Tensor):
                where = value.data_ptr(), value.shape, value.stride(), value.dtype
                if where not in copies:
                    size -= value.nbytes
                    copies[where] = _copy(value, size)
                node[key] = copies[where]
            elif isinstance(value, (dict, list)):
                waiting.append(value)
            elif not isinstance(value, PLAIN) and not _is_plain_tuple(value):
                raise ValueError(f"{key} is a {type(value).__name__}")


def _copy(value: Tensor, room: int) -> Tensor:
    dense = value.layout is torch.strided and not value.is_quantized and value.device.type == "cpu"
    if type(value) not in (Tensor, nn.Parameter) or not dense or room < 0:
        raise ValueError("a tensor is larger than the file, or of an unknown kind")
    return value.detach().clone()


def _is_plain_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, PLAIN) for one in value)


def wrong_key(state: dict[str, Any]) -> str | None:
    """The first key whose value has another form than this project writes; None if all are right.

    Keys that are absent are the reader's affair.
    """
    for key, is_right in CHECKS.items():
        try:
            if key in state and not is_right(state[key]):
                return key
        except Exception:  # whatever a value of another type leads to
            return key
    axes = len(state.get("axes", ()))
    sizes = {"counts": len(state.get("units", ())), "target": axes}
    for key in ("mean", "std"):
        if key in state and not _have_sizes(state[key], sizes):
            return key
    if not all(_is_scaled(one, axes) for one in state.get("sessions", ())):
        return "sessions"
    made = state.get("model", {"input_size": sizes["counts"], "output_size": sizes["target"]})
    fits = (made["input_size"], made["output_size"]) == tuple(sizes.values())
    return None if fits else "model"


def _have_sizes(values: dict[str, Tensor], sizes: dict[str, int]) -> bool:
    return {name: len(one) for name, one in values.items()} == sizes


def _is_scaled(session: dict[str, Any], axes: int) -> bool:
    """Whether the scaling of one session of many fits its units and the axes."""
    sizes = {"counts": len(session["units"]), "target": axes}
    return all(_have_sizes(session[key], sizes) for key in ("mean", "std"))


def finite(values: Tensor) -> bool:
    """Whether a tensor is of numbers none of which is NaN or infinite."""
    return bool(torch.isfinite(values).all())


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_plain(tree: Any) -> bool:
    """Settings as `config.yaml` has them, small, and without text that OmegaConf would resolve."""
    waiting, entries = [(tree, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        entries += 1
        if entries > MAX_ENTRIES or depth > MAX_DEPTH:
            return False
        if isinstance(node, dict):
            if not all(map(_is_text, node)):
                return False
            waiting += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(value, depth + 1) for value in node]
        elif not isinstance(node, PLAIN):
            return False
    return isinstance(tree, dict)


def has_interpolation(tree: Any) -> bool:
    """Whether some text in plain settings would be resolved, `${oc.env:HOME}` say."""
    if isinstance(tree, dict):
        return any(map(has_interpolation, [*tree, *tree.values()]))
    if isinstance(tree, list):
        return any(map(has_interpolation, tree))
    return isinstance(tree, str) and "${" in tree


def _is_model(made: Any) -> bool:
    sizes = made["input_size"], made["output_size"], made.get("members", 1)
    shared = made.get("read_out", READ_OUTS[0]) in READ_OUTS
    return (
        shared
        and all(map(_is_count, sizes))
        and 1 <= sizes[2] <= 100
        and _resolved(made["settings"])
    )


def _is_data(values: Any) -> bool:
    from omegaconf import OmegaConf

    if not _resolved(values):
        return False
    typed: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), values))
    return flatten(values).items() <= flatten(asdict(typed)).items()


def _resolved(values: Any) -> bool:
    return _is_plain(values) and not has_interpolation(values)


def _is_session(about: Any) -> bool:
    split = about["split_bins"]
    ends = [end for pair in split.values() for end in pair]
    ordered = all(len(pair) == 2 and pair[0] <= pair[1] for pair in split.values())
    texts = _is_text(about["name"]) and _is_text(about["md5"])
    return texts and "test" in split and all(map(_is_count, ends)) and ordered


def _are_sessions(sessions: Any) -> bool:
    """Sessions of one decoder, each with a name of its own, units and scaling."""
    names = {one["name"] for one in sessions}
    return isinstance(sessions, list) and 0 < len(sessions) == len(names) and all(
        _is_session(one) and _are_units(one["units"]) and _is_mean(one["mean"])
        and _is_std(one["std"]) and one["name"] == Path(one["name"]).name != ".."
        for one in sessions
    )  # fmt: skip


def _are_units(units: Any) -> bool:
    return all([type(value) for value in unit] == [str, str, int] for unit in units)


def _are_axes(axes: Any) -> bool:
    return isinstance(axes, list) and all(re.fullmatch(r"\w+", axis) for axis in axes)


def _is_mean(values: Any) -> bool:
    return set(values) == {"counts", "target"} and all(
        one.dtype is torch.float64 and one.ndim == 1 and finite(one) for one in values.values()
    )


def _is_std(values: Any) -> bool:
    return _is_mean(values) and all(bool((one > 0).all()) for one in values.values())


def _are_weights(weights: Any) -> bool:
    named = isinstance(weights, dict) and all(map(_is_text, weights))
    return named and bool(weights) and all(finite(value) for value in weights.values())


def _is_best(best: Any) -> bool:
    return _is_count(best["epoch"]) and _are_weights(best["decoder"])


def _is_history(rows: Any) -> bool:
    """A row for each epoch from 0, all with the same columns of numbers."""
    numbered = all(row["epoch"] == number for number, row in enumerate(rows))
    same = all(row.keys() == rows[0].keys() for row in rows)
    return bool(rows) and numbered and same and all(map(_is_row, rows))


def _is_row(row: dict[str, Any]) -> bool:
    numbers = all(map(_is_number, row.values()))
    return numbers and math.isfinite(row["train_loss"]) and math.isfinite(row["seconds"])


def _is_random_state(state: Any) -> bool:
    return state.dtype is torch.uint8 and state.ndim == 1


CHECKS: dict[str, Callable[[Any], bool]] = {
    "format": _is_count,
    "version": _is_text,
    "names": _is_plain,
    "model": _is_model,
    "data": _is_data,
    "session": _is_session,
    "sessions": _are_sessions,
    "units": _are_units,
    "axes": _are_axes,
    "mean": _is_mean,
    "std": _is_std,
    "epoch": _is_count,
    "decoder": _are_weights,
    "averaged": _are_weights,
    "reconstruction": _are_weights,
    "best": _is_best,
    "settings": _is_plain,
    "fingerprint": _is_text,
    "history": _is_history,
    "session_history": lambda rows: all(map(_is_history, rows)),
    "random": _is_random_state,
    "shuffle_rng": _is_random_state,
}
