"""The operating system and this Python: files written in one step, memory, cores, versions, sizes."""

from .atomic import replace_file, sync_folder, write_atomically
from .durations import duration
from .exchanging import exchange
from .interrupt import stop_on_interrupt
from .locking import LOCK, exclusive
from .machine import conditions, cpu_features, processor, usable_cpus
from .malloc import keep_little
from .memory import available_bytes, peak_bytes, resident_bytes, total_bytes
from .percentiles import percentiles_ms
from .regular import open_regular, read_regular
from .scratch import scratch_folder, temporary_folder
from .sizes import parse_bytes, render_bytes
from .versions import VERSION, distribution_version

__all__ = [
    "LOCK",
    "VERSION",
    "available_bytes",
    "conditions",
    "cpu_features",
    "distribution_version",
    "duration",
    "exchange",
    "exclusive",
    "keep_little",
    "open_regular",
    "parse_bytes",
    "peak_bytes",
    "percentiles_ms",
    "processor",
    "read_regular",
    "render_bytes",
    "replace_file",
    "resident_bytes",
    "scratch_folder",
    "stop_on_interrupt",
    "sync_folder",
    "temporary_folder",
    "total_bytes",
    "usable_cpus",
    "write_atomically",
]
