"""What each process does in the tests of several ones: `torchrun several_processes.py PLAN OUT`.

PLAN is a JSON list of trainings, each the words of every process; a result of each process goes
into OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from commands import train_here
from torch import nn

import bci_decode
from bci_decode.errors import BciDecodeError
from bci_decode.training.distributed import Group, process_group, rank


def checks(group: Group) -> dict[str, Any]:
    """What the functions of a group return in this process."""
    found: dict[str, Any] = {"package": bci_decode.__file__}
    found["first"] = group.first(lambda: f"of {group.rank}")
    found["gathered"] = group.gathered(group.rank + 10)
    found["share"] = group.share(torch.arange(5)).tolist()
    found["share of one"] = group.share(torch.arange(1)).tolist()
    both, last, unused = (nn.Parameter(torch.ones(2, 3)) for _ in range(3))
    both.grad = torch.full((2, 3), 1.0 + group.rank)
    if group.rank == group.size - 1:
        last.grad = torch.full((2, 3), 5.0)
    group.mean_gradients([both, last, unused], 1 + 2 * group.rank)
    gradients = (one.grad for one in (both, last, unused))
    found["gradients"] = [None if one is None else one.flatten().tolist() for one in gradients]
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, group.rank + 1.0)
    group.copy_from_first(layer)
    found["weight"] = layer.weight.item()
    torch.manual_seed(3)
    group.seed(0, 1)
    found["random"] = torch.rand(1).item()

    def fails() -> None:
        if group.rank == 1:
            raise BciDecodeError("is damaged", file="b.mat", remedy="copy it again")

    try:
        group.together(fails)
    except BciDecodeError as error:
        found["error"] = str(error)
    return found


def main() -> None:
    plan, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    with process_group("cpu") as group:
        results: list[Any] = [checks(group)]
    for words in plan:
        done = train_here(Path.cwd(), *words[rank()])
        results.append({"code": done.returncode, "out": done.stdout, "err": done.stderr})
    (out / f"rank{rank()}.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
