"""Cameras, network streams and videos: opened, read so that the newest frame wins, answered, recorded and shown."""

from .address import Address, is_stream, parse_address
from .figures import Durations
from .reading import Frame, FrameReader
from .recording import Recorder
from .showing import Window
from .smoothing import Smoother
from .watching import Figures, Seen, Watcher, prepared

__all__ = [
    "Address",
    "Durations",
    "Figures",
    "Frame",
    "FrameReader",
    "Recorder",
    "Seen",
    "Smoother",
    "Watcher",
    "Window",
    "is_stream",
    "parse_address",
    "prepared",
]
