"""OpenCV, which opens streams, writes videos and shows windows: loaded when it is needed, and quiet."""

import os
import sys
from typing import Any

from ..errors import StreamError

# OpenCV and its FFmpeg print warnings of their own to stderr, between our lines; we say what matters of them.
_QUIET = {"OPENCV_LOG_LEVEL": "ERROR", "OPENCV_FFMPEG_LOGLEVEL": "-8", "OPENCV_VIDEOIO_DEBUG": "0"}
_WINDOWS = ("QT", "GTK+", "Win32 UI", "Cocoa", "Wayland")
_JETPACK = "/etc/nv_tegra_release"


def load_opencv() -> Any:
    """The module cv2. Raises StreamError, which says how to get it here, where it is missing or does not load."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import cv2
    except ImportError as error:
        if getattr(error, "name", None) == "cv2" or "cv2" in sys.modules:  # None there: it must not be imported
            raise StreamError("streams need OpenCV: %s" % how_to_install())
        raise StreamError(
            "streams need OpenCV, which does not load (%s): %s" % (str(error).split("\n")[0], how_to_install())
        )
    if not hasattr(cv2, "VideoCapture"):
        raise StreamError("the module cv2 at %s is not OpenCV: %s" % (cv2.__file__, how_to_install()))
    return cv2


def how_to_install() -> str:
    """What brings OpenCV here."""
    if is_jetson():  # whose own build has GStreamer, which pip's has not
        return "sudo apt-get install nvidia-opencv, which is JetPack's own"
    return "pip install 'da3[video]'"


def is_jetson() -> bool:
    """Is this NVIDIA's Linux for Jetsons, with its own elements for GStreamer?"""
    return os.path.exists(_JETPACK)


def has_gstreamer(cv2: Any) -> bool:
    return _built_with(cv2, "GStreamer")


def has_ffmpeg(cv2: Any) -> bool:
    return _built_with(cv2, "FFMPEG")


def has_windows(cv2: Any) -> bool:
    """Can this build show windows? The one named headless cannot."""
    named = _line(cv2, "GUI")
    # Before OpenCV 4.5 that line was a heading, and what it can be built with came below.
    return named != "NONE" if named else any(_built_with(cv2, what) for what in _WINDOWS)


def _built_with(cv2: Any, what: str) -> bool:
    return _line(cv2, what).startswith("YES")


def _line(cv2: Any, what: str) -> str:
    """What OpenCV says of a part of it: "YES (1.14.5)", "NO", "NONE", "" where it does not say."""
    for line in cv2.getBuildInformation().splitlines():
        name, _, value = line.strip().partition(":")
        if name == what:
            return str(value.strip())
    return ""
