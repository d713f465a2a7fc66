"""The processes that train one domain together, as PyTorch's process groups carry their words and numbers.

Gradients go over the group that suits the device (NCCL between GPUs, else gloo), everything else over gloo.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from da3.runtime.errors import Da3Error
from da3.runtime.records import Array
from da3.runtime.training import Group
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.launch import Launch

_FAILURE = "failure"  # the store's key for why a process ended
_MOST_BYTES = 1 << 30  # that one process says to the others
_DIGEST = 32  # bytes


class LostError(TrainingError):
    """Another process has ended, or is not heard of any more."""


def first_line(error: BaseException) -> str:
    """What PyTorch says, of which the first line says it all, without where in whose source it arose."""
    line = str(error).strip().split("\n", 1)[0]
    words = line.split("] ", 1)[-1] if line.startswith("[") else line
    words = words.split(". ", 1)[0]
    return "".join(c if c.isprintable() else "?" for c in words)[:200]


class Joined(Group):
    """The group that ``join`` makes. ``device``: of this process. ``sent``: bytes of all sums that it gave and took so
    far, each counted once."""

    def __init__(self, launch: Launch, store: Any, patience: float):
        """``store``: PyTorch's, which outlives a process. ``patience``: seconds until a silent process counts as lost;
        used in words alone."""
        self.launch, self.rank, self.size = launch, launch.rank, launch.size
        self.device, self.sent = torch.device("cpu"), 0
        self._store, self._patience = store, patience
        self._gradients: Any = None  # the process group for tensors on GPUs; None: that of everything else

    def use_gpu(self, device: torch.device) -> None:
        """Exchange the tensors of this process's GPU by NCCL from now on. A meeting."""
        self.device = device
        with self._meeting():
            self._gradients = dist.new_group(backend="nccl")

    # -- what the loop asks

    def agree(self, wish: bool) -> bool:
        wishes = torch.tensor([float(wish)])
        with self._meeting():
            dist.all_reduce(wishes, dist.ReduceOp.MAX)
        return bool(wishes.item())

    def joined(self, rows: Array) -> Array:
        if rows.size:
            with self._meeting():
                dist.all_reduce(torch.from_numpy(rows))
        return rows

    def of_first(self, say: Callable[[], bytes]) -> bytes:
        said = say() if self.first else b""
        size = torch.tensor([len(said)])
        with self._meeting():
            dist.broadcast(size, 0)
        count = int(size)
        if not 0 <= count <= _MOST_BYTES:
            raise TrainingError(f"the first process says {count} bytes, more than {_MOST_BYTES}")
        if not count:
            return b""
        words = torch.frombuffer(bytearray(said), dtype=torch.uint8) if said else torch.empty(count, dtype=torch.uint8)
        with self._meeting():
            dist.broadcast(words, 0)
        return words.numpy().tobytes()

    def check_equal(self, **facts: str) -> None:
        digests = b"".join(
            hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest() for value in facts.values()
        )
        own = torch.frombuffer(bytearray(digests), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with self._meeting():
            dist.all_gather(found, own)
        for rank, theirs in enumerate(found):
            for i, name in enumerate(facts):
                part = slice(i * _DIGEST, (i + 1) * _DIGEST)
                if not torch.equal(theirs[part], found[0][part]):
                    raise TrainingError(
                        f"process {rank} of {self.size} (from 0) has other {name.replace('_', ' ')} than the first, so "
                        "they cannot train together: use equal machines, with the same da3, PyTorch, photos and options"
                    )

    # -- what the trainer asks

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor summed over the processes, which all get the same bits: views of one buffer. The tensors are of
        one type and device, of the same shapes in every process. A meeting."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._meeting():
            dist.all_reduce(flat, group=self._gradients if flat.is_cuda else None)
        self.sent += flat.numel() * flat.element_size()
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]

    # -- how processes end

    def say_why(self, error: BaseException) -> None:
        """Let the first process know why this one is about to end, unless it ends since another did."""
        if self.first or isinstance(error, LostError):
            return
        words = str(error) if isinstance(error, (Da3Error, OSError)) else f"{type(error).__name__}: {error}"
        with suppress(RuntimeError):  # the store may be gone with the first process's machine
            where = f"process {self.rank} of {self.size} (from 0), on {socket.gethostname()}"
            self._store.set(_FAILURE, f"{where}: {words}")

    @contextmanager
    def _meeting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # the base of what PyTorch raises where a connection is closed, or silent
            raise LostError(self._why(error)) from error

    def _why(self, error: RuntimeError) -> str:
        with suppress(RuntimeError):
            if self._store.check([_FAILURE]):
                return " ".join(self._store.get(_FAILURE)[:2000].decode("utf-8", "replace").split())
        return (
            f"another of the {self.size} processes has ended, or was silent for {self._patience:.0f} s: what the run "
            f"had saved is whole; start all of them again with --resume ({first_line(error)})"
        )
