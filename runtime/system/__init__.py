"""The operating system and this Python: files written in one step, memory, cores, versions, sizes."""

from .atomic import replace_file, write_atomically
from .machine import conditions, usable_cpus
from .memory import available_bytes, peak_bytes
from .percentiles import percentiles_ms
from .sizes import parse_bytes, render_bytes
from .versions import VERSION, distribution_version

__all__ = [
    "VERSION",
    "available_bytes",
    "conditions",
    "distribution_version",
    "parse_bytes",
    "peak_bytes",
    "percentiles_ms",
    "render_bytes",
    "replace_file",
    "usable_cpus",
    "write_atomically",
]
