"""How much memory this process has held, as the system counts it."""

import sys
from typing import Optional


def peak_bytes() -> int:
    """The most memory, in bytes, that was resident for this process at one time."""
    try:
        # On Linux, what getrusage says includes the process that forked this one.
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """The memory, in bytes, that is resident for this process now; where the system does not say, the most that ever
    was."""
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
    except OSError:
        return peak_bytes()
    import resource  # Windows has none

    return pages * resource.getpagesize()


def available_bytes() -> Optional[int]:
    """The memory, in bytes, that the machine can give without swapping; None where the system does not say."""
    return _of_machine("MemAvailable:")


def total_bytes() -> Optional[int]:
    """The machine's memory, in bytes; None where the system does not say."""
    return _of_machine("MemTotal:")


def _of_machine(entry: str) -> Optional[int]:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith(entry):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
