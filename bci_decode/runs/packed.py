"""A packed run: one file of safetensors with all that decoding takes, and what tells of it.

Each tensor of the checkpoint has its place there as its name, keys and indices with slashes between
("decoder/head.weight"; "~1" is a slash in a key, "~0" a tilde). The metadata are texts:

    bci_decode   the version of this layout
    checkpoint   JSON of `best.pt`, with null in the places of tensors
    report       `metrics.json`
    history      `history.csv`
    card         the model card, Markdown
    orders       JSON: the dimensions from slow to fast of tensors that are not by rows in memory
    sha256       of the file, with zeros in the place of these digits

Paths of the machine are shortened to the names of the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from bci_decode.errors import BciDecodeError
from bci_decode.files import check_regular, written_whole
from bci_decode.training.checkpoint import check_content
from bci_decode.training.checkpoint_checks import MAX_BYTES

SUFFIX = ".safetensors"
LAYOUT = "1"
MAX_HEADER = 32 << 20  # bytes: names of the tensors, and all metadata
NO_DIGEST = "0" * 64
AS_THEY_ARE = ("units", "axes", "decoder")  # keys of a checkpoint whose texts decoding depends on


@dataclass(frozen=True)
class Packed:
    """The content of a packed run: its checkpoint, `metrics.json`, `history.csv` and model card."""

    state: dict[str, Any] = field(repr=False)
    report: dict[str, Any] = field(repr=False)
    history: str = field(repr=False)
    card: str


def is_packed(path: Path) -> bool:
    """Whether a path names a packed run, there or not."""
    return path.suffix == SUFFIX and not path.is_dir()


def write_packed(path: Path, packed: Packed) -> None:
    """Write a packed run, whole or not at all; what is written has been read once."""
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    content = _plain(without_paths(packed.state), "", tensors)
    orders = {name: _order(one) for name, one in tensors.items() if not one.is_contiguous()}
    metadata = {
        "bci_decode": LAYOUT,
        "checkpoint": json.dumps(content),
        "orders": json.dumps(orders),
        "report": json.dumps(without_paths(packed.report)),
        "history": packed.history,
        "card": packed.card,
        "sha256": NO_DIGEST,
    }
    file = save({name: one.contiguous() for name, one in tensors.items()}, metadata)
    if int.from_bytes(file[:8], "little") > MAX_HEADER:
        problem = f"its settings and history have more than {MAX_HEADER} bytes"
        raise BciDecodeError(problem, file=path, remedy="share the folder of the run")
    digest = hashlib.sha256(file).hexdigest()
    with written_whole(path) as temporary:
        temporary.write_bytes(_with_digest(file, NO_DIGEST, digest))
        read_packed(temporary)


def read_packed(path: Path) -> Packed:
    """Read a packed run; refused where the file is damaged, or holds anything of another form."""
    check_regular(path)
    try:
        tensors, metadata = _content(path)
        state, report = json.loads(metadata["checkpoint"]), json.loads(metadata["report"])
        orders = json.loads(metadata["orders"])
        for name, tensor in tensors.items():
            _put(state, name, _in_order(tensor, orders.get(name)))
        if not isinstance(report, dict) or "decoder" not in state:
            raise ValueError("it holds no run")
        packed = Packed(state, report, metadata["history"], metadata["card"])
    except Exception as error:  # of the file, of JSON, of safetensors, of places that are not there
        raise BciDecodeError(
            "is damaged, or no packed run of this project",
            file=path,
            remedy="pack the run again: bci-decode pack RUN",
        ) from error
    check_content(state, path)
    return packed


def _content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose digest is right; a ValueError if it is not."""
    from safetensors.torch import load

    if path.stat().st_size > MAX_BYTES:
        raise ValueError("it is too large")
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER:
            raise ValueError("its header is too large")
        header = file.read(size)
        metadata = json.loads(header)["__metadata__"]
        content = size.to_bytes(8, "little") + header + file.read()
    digest = metadata["sha256"]
    if hashlib.sha256(_with_digest(content, digest, NO_DIGEST)).hexdigest() != digest:
        raise ValueError("it was changed")
    if metadata["bci_decode"] != LAYOUT:
        raise ValueError("it is of another version")
    return load(content), metadata


def _with_digest(content: bytes, old: str, new: str) -> bytes:
    old, new = (f'"sha256":"{digest}"' for digest in (old, new))
    return content.replace(old.encode(), new.encode(), 1)


def _plain(node: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The content of a checkpoint with None for each tensor, which goes into `tensors`."""
    if isinstance(node, torch.Tensor):
        tensors[place] = node.detach().clone()
        return None
    if isinstance(node, dict):
        return {
            key: _plain(value, _below(place, _escaped(key)), tensors) for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [_plain(value, _below(place, str(i)), tensors) for i, value in enumerate(node)]
    return node


def _order(tensor: torch.Tensor) -> list[int]:
    strides: tuple[int, ...] = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension])


def _in_order(tensor: torch.Tensor, order: list[int] | None) -> torch.Tensor:
    """A tensor as it was in memory, since the last bit of a matrix product depends on that."""
    if order is None:
        return tensor
    back = [order.index(dimension) for dimension in range(len(order))]
    return tensor.permute(order).contiguous().permute(back)


def _below(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _put(tree: Any, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor into its place, where a None is."""
    *above, last = _steps(name)
    for step in above:
        tree = tree[int(step) if isinstance(tree, list) else step]
    key = int(last) if isinstance(tree, list) else last
    if tree[key] is not None:
        raise ValueError(f"{name} is taken")
    tree[key] = tensor


def _steps(name: str) -> Iterator[str]:
    return (step.replace("~1", "/").replace("~0", "~") for step in name.split("/"))


def without_paths(node: Any) -> Any:
    """Plain content in which a path of this machine is shortened to its last name."""
    if isinstance(node, dict):
        return {
            key: value if key in AS_THEY_ARE else without_paths(value)
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [without_paths(value) for value in node]
    return _name(node) if isinstance(node, str) else node


def _name(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(text)
        if path.is_absolute() or path.parts[:1] in (("~",), ("..",)):
            return path.name
    return text
