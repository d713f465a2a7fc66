"""TensorRT's timing cache in a folder of engines: what was measured for one build need not be measured for the next."""

import os
import re

from ..system.atomic import replace_file
from ..system.regular import read_regular
from .store import Device

_LIMIT = 256 << 20  # bytes


def timing_file(folder: str, device: Device) -> str:
    """Its path, for what is built on this device."""
    return os.path.join(folder, "timing-%s-sm%d-%s.cache" % (device.tensorrt, device.sm, slug(device.gpu)))


def read_timing(path: str) -> bytes:
    """What the cache holds; nothing where it cannot be read."""
    try:
        return read_regular(path, _LIMIT)
    except OSError:
        return b""


def write_timing(path: str, data: bytes) -> None:
    """Replace the cache. It only saves time, so nothing is said where it cannot be written."""
    try:
        replace_file(path, lambda file: file.write(data))
    except OSError:
        pass


def slug(text: str) -> str:
    """A text as it may stand in a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")
