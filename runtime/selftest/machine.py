"""What a board says of itself: its system, power mode, clocks and temperatures. Nothing of it has to be there."""

import glob
import os
import subprocess
from typing import Any, Dict, List, Optional, Sequence, Tuple

_SECONDS = 20  # a command may take
_FILES = ("etc/nv_tegra_release", "proc/device-tree/model", "proc/version", "etc/os-release")
# Patterns of folders, what each is called by, what it holds now and what it holds at most.
_CLOCKS: Tuple[Tuple[str, str, str], ...] = (
    ("sys/devices/system/cpu/cpu[0-9]*/cpufreq", "scaling_cur_freq", "scaling_max_freq"),  # kHz
    ("sys/class/devfreq/*", "cur_freq", "max_freq"),  # Hz
)
_ZONES = "sys/class/thermal/thermal_zone*"


def system_texts(root: str = "/") -> Dict[str, str]:
    """The files that say which board and which system this is, by name; those that are not there are left out."""
    found = {name: _text(os.path.join(root, name)) for name in _FILES}
    return {name: text for name, text in found.items() if text is not None}


def power_mode() -> Optional[str]:
    """What `nvpmodel -q` says; None where there is no such command."""
    return said(("nvpmodel", "-q"))


def said(words: Sequence[str]) -> Optional[str]:
    """What a command prints; None where it is not there or does not end."""
    try:
        done = subprocess.run(
            list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def sensors(root: str = "/") -> Dict[str, Any]:
    """{"clocks": {name: [now, most]}, "temperatures": {zone: degrees Celsius}}; clocks are as the kernel writes them:
    of CPUs in kHz, of other devices in Hz."""
    clocks: Dict[str, List[int]] = {}
    for pattern, now, most in _CLOCKS:
        for folder in sorted(glob.glob(os.path.join(root, pattern))):
            numbers = [_number(os.path.join(folder, name)) for name in (now, most)]
            known = [number for number in numbers if number is not None]
            if known:
                name = os.path.basename(os.path.dirname(folder) if folder.endswith("cpufreq") else folder)
                clocks[name] = known
    temperatures: Dict[str, float] = {}
    for folder in sorted(glob.glob(os.path.join(root, _ZONES))):
        degrees = _number(os.path.join(folder, "temp"))
        if degrees is not None:
            zone = _text(os.path.join(folder, "type")) or os.path.basename(folder)
            temperatures[zone] = degrees / 1000.0
    return {"clocks": clocks, "temperatures": temperatures}


def slow_clocks(found: Dict[str, Any]) -> List[str]:
    """The clocks that are below their most."""
    return [name for name, numbers in found["clocks"].items() if len(numbers) == 2 and numbers[0] < numbers[1]]


def _text(path: str) -> Optional[str]:
    try:
        with open(path, "rb") as file:
            return file.read(65536).decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return None


def _number(path: str) -> Optional[int]:
    text = _text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
