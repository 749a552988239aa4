"""Several processes that train one decoder, as torchrun or SLURM starts them.

Each process has all weights and takes its share of every batch; their gradients are averaged before
each step, so that the weights stay those of one process. PyTorch's DistributedDataParallel does not
give that here: it waits for a backward pass in every process, and the share of a batch may be
empty; it averages over processes, and shares differ in size. Networks are small, so that nothing is
won by sending some gradients while others are computed.

PyTorch is imported only where there are several processes.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from bci_decode.errors import BciDecodeError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
ADDRESS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # as torchrun sets them
_trainings = itertools.count()


class ProcessLost(BciDecodeError):
    """Another process ended; it, or whoever started it, says why."""


def join_slurm() -> None:
    """Give a task of a SLURM job that a sweep submitted the environment that torchrun gives."""
    tasks = int(os.environ.get("SLURM_NTASKS") or 1)
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and tasks > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def world_size() -> int:
    """How many processes were started to train together; 1 without torchrun or SLURM."""
    return int(os.environ["WORLD_SIZE"]) if all(os.environ.get(key) for key in ADDRESS) else 1


def rank() -> int:
    """The number of this process; 0 is the one that writes and prints."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def check_alone(remedy: str) -> None:
    """Refuse several processes for what one does."""
    if world_size() > 1:
        raise BciDecodeError(
            "only a decoder of many sessions trains on several",
            field=f"{world_size()} processes",
            remedy=remedy,
        )


class Group:
    """The processes that train together; in one alone its functions do next to nothing."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self.told = False  # whether the first process knows of an error of this one

    def first(self, work: Callable[[], T]) -> T:
        """What `work` returns in the first process, which alone does it."""
        value = [None if self.rank else work()]
        if self.size > 1:
            import torch.distributed as dist

            with _others():
                dist.broadcast_object_list(value)
        return value[0]  # type: ignore[return-value]

    def together(self, work: Callable[[], T]) -> T:
        """Work that every process does by itself; an error of one ends all of them.

        The first process then raises it, whose ever it is.
        """
        if self.size == 1:
            return work()
        import torch.distributed as dist

        error: Exception | None = None
        try:
            value = work()
        except Exception as raised:
            error = raised
        errors: list[BciDecodeError | None] = [None] * self.size
        with _others():
            dist.all_gather_object(errors, error and self._line(error))
        self.told = any(errors)
        if error is not None:
            raise error
        for other in errors:
            if other is not None:
                raise other
        return value

    def _line(self, error: Exception) -> BciDecodeError:
        if isinstance(error, BciDecodeError):
            return error
        return BciDecodeError(
            f"{type(error).__name__}: {one_line(error)}", field=f"process {self.rank}"
        )

    def gathered(self, own: T) -> list[T]:
        """What each process has, in the first one; nothing in the others."""
        if self.size == 1:
            return [own]
        import torch.distributed as dist

        every: list[Any] | None = None if self.rank else [None] * self.size
        with _others():
            dist.gather_object(own, every)
        return every or []

    def share(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this process takes, possibly none."""
        return rows[self.rank :: self.size].contiguous()

    def mean_gradients(self, parameters: Iterable[nn.Parameter], outputs: int) -> None:
        """Make the gradients of means over `outputs` in each process that over all of them.

        A weight that has a gradient in no process keeps none.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        learned = [one for one in parameters if one.requires_grad]
        own = [torch.zeros_like(one) if one.grad is None else one.grad for one in learned]
        used = own[0].new_tensor([float(one.grad is not None) for one in learned])
        weighted = [one.flatten() * outputs for one in own]
        joined = torch.cat([*weighted, used, used.new_tensor([float(outputs)])])
        with _others():
            dist.all_reduce(joined)
        *sums, used, total = joined.split([*(one.numel() for one in learned), len(learned), 1])
        for one, values, count in zip(learned, sums, used.tolist(), strict=True):
            one.grad = (values / total.clamp(min=1)).view_as(one) if count else None

    def copy_from_first(self, module: nn.Module) -> None:
        """Give all processes the weights of the first one."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _others():
            for values in module.state_dict().values():
                dist.broadcast(values, 0)

    def seed(self, seed: int, epoch: int) -> None:
        """Let the others draw other random numbers than the first one, which keeps its own."""
        if self.rank:
            import torch

            torch.manual_seed((seed * 1_000_003 + epoch) * 10_007 + self.rank)


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """All processes that were started to train together, each on a GPU of its own if there are any.

    An error inside ends all of them; the first one raises it or a `ProcessLost`.
    """
    if world_size() == 1:
        yield Group()
        return
    import torch.distributed as dist

    group = Group(rank(), world_size())
    _start(device)
    project = logging.getLogger("bci_decode")
    level = project.level
    if group.rank:
        project.setLevel(logging.ERROR)
    try:
        yield group
    except Exception as error:
        _ignore_termination()
        known = group.told or isinstance(error, ProcessLost)
        if group.rank and not known and isinstance(error, (BciDecodeError, OSError)):
            print(f"process {group.rank}: error: {one_line(error)}", file=sys.stderr)
        raise
    finally:
        project.setLevel(level)
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _start(device: str) -> None:
    """Connect the processes: NCCL between GPUs, Gloo between CPUs and for all but tensors."""
    import torch
    import torch.distributed as dist

    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if here > gpus:
            raise BciDecodeError(
                f"there are {here} processes and {gpus} GPUs",
                field="trainer.device",
                remedy="start a process for each GPU, or choose cpu",
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    try:
        store, number, size = next(dist.rendezvous("env://"))
        # the notes of an earlier training in these processes are still in the store
        own = dist.PrefixStore(f"training{next(_trainings)}", store)
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=own, rank=number, world_size=size)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise BciDecodeError(
            f"the {world_size()} processes do not find each other ({one_line(error)})",
            field=where,
            remedy="start them with torchrun, or as tasks of a SLURM job",
        ) from error


@contextmanager
def _others() -> Iterator[None]:
    """Say in one line that another process is gone, or does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this training ended or does not answer",
            remedy="see its own message; the same command resumes from the last whole epoch",
        ) from error


def _ignore_termination() -> None:
    """End in one line: whoever started the processes terminates the rest once the first ended."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
