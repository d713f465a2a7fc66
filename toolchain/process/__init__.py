"""Processes: how one is started for some work, how it is interrupted, what memory it holds. It imports no PyTorch."""

from da3.runtime.system import stop_on_interrupt
from da3.toolchain.process.allocator import forget_code, keep_freed_memory, return_freed_memory
from da3.toolchain.process.interrupt import end_on_sigterm
from da3.toolchain.process.measured import measured_peak
from da3.toolchain.process.memory import growth, live_bytes, peak_bytes, reset_peak
from da3.toolchain.process.settings import restart_settled
from da3.toolchain.process.worker import Answer, Say, Worker, WorkerError, serve

__all__ = [
    "Answer",
    "Say",
    "Worker",
    "WorkerError",
    "end_on_sigterm",
    "forget_code",
    "growth",
    "keep_freed_memory",
    "live_bytes",
    "measured_peak",
    "peak_bytes",
    "reset_peak",
    "restart_settled",
    "return_freed_memory",
    "serve",
    "stop_on_interrupt",
]
