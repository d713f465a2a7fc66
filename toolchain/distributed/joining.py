"""How the processes that a launcher started find each other, get their devices, and part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from da3.runtime.system import VERSION
from da3.toolchain.distributed.joined import Joined, first_line
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.launch import Launch

# A process that has ended is noticed at once, by its closed connections. This is for machines that have gone without a
# word; the first process does some work alone meanwhile, such as writing a checkpoint or hashing the photos.
PATIENCE = 300.0  # seconds


@contextmanager
def join(launch: Launch, device: str) -> Iterator[Joined]:
    """The group of all processes, for as long as this holds. ``device``: as ``--device`` has it.

    It ends for all of them at once where nothing is raised; otherwise the first process learns why. Raises
    TrainingError where they do not find each other, have no device, or are no equals.
    """
    if not dist.is_available() or not dist.is_gloo_available():
        raise TrainingError("this PyTorch is built without torch.distributed or gloo: train with one process")
    threads = launch.threads()
    if threads is not None:
        torch.set_num_threads(threads)
    group = _meet(launch)
    try:
        group.check_equal(versions=VERSION)
        place = device_of(launch, device)
        group.check_equal(
            versions=torch.__version__,
            processors=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            kind_of_device=place.type,
        )
        if place.type == "cuda":
            if not dist.is_nccl_available():
                raise TrainingError("this PyTorch is built without NCCL, which joins GPUs: use --device cpu")
            torch.cuda.set_device(place)
            group.use_gpu(place)
        yield group
        group.agree(False)  # nobody leaves before all are done: torchrun would end the others
    except BaseException as error:
        group.say_why(error)
        raise
    finally:
        dist.destroy_process_group()


def device_of(launch: Launch, name: str) -> torch.device:
    """The device of this process: with ``auto`` and ``cuda`` a GPU for each. Raises TrainingError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda") and launch.local_size > 1:
        raise TrainingError(f"--device {name}: of several processes on one machine each has a device: use cpu or cuda")
    if not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: this PyTorch sees no CUDA device; use --device cpu")
    if name not in ("auto", "cuda"):
        return torch.device(name)
    gpus = torch.cuda.device_count()
    if launch.local_size > gpus:
        raise TrainingError(
            f"{launch.local_size} processes and {gpus} GPU{'s' if gpus > 1 else ''} on this machine: start no more "
            f"processes than GPUs (--nproc-per-node {gpus}), or use --device cpu"
        )
    return torch.device("cuda", launch.local_rank)


def _meet(launch: Launch) -> Joined:
    from torch.distributed.distributed_c10d import PrefixStore  # a PyTorch without torch.distributed has neither
    from torch.distributed.rendezvous import rendezvous

    patience = timedelta(seconds=PATIENCE)
    try:
        store, _, _ = next(rendezvous("env://", timeout=patience))
        store = PrefixStore("da3", store)
        dist.init_process_group("gloo", store=store, rank=launch.rank, world_size=launch.size, timeout=patience)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
        raise TrainingError(
            f"process {launch.rank} of {launch.size} did not find the others through {where}: name the network to use "
            f"with GLOO_SOCKET_IFNAME=eth0, and let no firewall be between them ({first_line(error)})"
        ) from error
    return Joined(launch, store, PATIENCE)
