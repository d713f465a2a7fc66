"""What a word means that names a stream: a camera's device, a CSI camera, a network stream or a video file."""

import os
import re
from typing import Dict, NamedTuple, Optional, Tuple

from ..errors import StreamError

DEVICE, CSI, NETWORK, FILE = "device", "csi", "network", "file"
_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts") + (
    ".wmv",
    ".flv",
    ".3gp",
    ".mjpeg",
    ".mjpg",
    ".ogv",
)
_ENDLESS = (".mjpeg", ".mjpg")  # as a file's name, a video; as a web camera's, a stream
_NETWORK = ("rtsp://", "rtsps://", "http://", "https://")
_DEVICE = re.compile(r"/dev/video\d+$")
_CSI = re.compile(r"csi://(\d{1,2})$")
_NUMBERS = {"width": (1, 16384), "height": (1, 16384), "fps": (1, 1000), "flip": (0, 7)}
_OPTIONS = {DEVICE: ("width", "height", "fps", "format"), CSI: ("width", "height", "fps", "flip")}
_EXAMPLES = {
    DEVICE: "/dev/video0?width=1280&height=720&fps=30&format=MJPG",
    CSI: "csi://0?width=1280&height=720&fps=30",
}


class Address(NamedTuple):
    """One stream. kind: DEVICE, CSI, NETWORK or FILE. text: what opens it: the device, the number of the sensor, the
    URL or the path. options: what follows the question mark of a camera. live: it goes on whether or not anybody
    looks, so that the newest frame is wanted; else every frame is. shown: what people are shown of it, no password."""

    kind: str
    text: str
    options: Dict[str, str]
    live: bool
    shown: str

    def number(self, name: str) -> Optional[int]:
        """An option that is a number; None where it is not given."""
        return int(self.options[name]) if name in self.options else None


def is_stream(word: str) -> bool:
    """Does the word name a stream, rather than pictures? One that `parse_address` refuses is meant as one, too."""
    return _kind(word) is not None or (_is_bare_number(word) and not os.path.exists(word))


def parse_address(word: str) -> Address:
    """The stream that a word names. Raises StreamError for what is none, or could mean two."""
    if _is_bare_number(word):
        raise StreamError(
            "%s names two cameras: say /dev/video%s for the one on USB, csi://%s for the one on a Jetson's ribbon cable"
            % (word, word, word)
        )
    kind = _kind(word)
    if kind == NETWORK:
        if any(not c.isprintable() or c == " " for c in word):
            raise StreamError("%r is no address: write what is no letter, digit or sign in it as %%XX" % word)
        name = word.split("?", 1)[0].lower()
        live = name.startswith("rtsp") or not name.endswith(_SUFFIXES) or name.endswith(_ENDLESS)
        return Address(kind, word, {}, live, _without_password(word))
    if kind == FILE:
        return Address(kind, word, {}, False, word)
    if kind is None:
        raise StreamError(
            "%s is no stream: use /dev/video0, csi://0, rtsp://..., http://... or a video file (%s)"
            % (word, ", ".join(_SUFFIXES[:5]))
        )
    place, options = _split(word, kind)
    if kind == CSI:
        found = _CSI.match(place)
        if found is None:
            raise StreamError("%s: the number of a sensor is missing: %s" % (word, _EXAMPLES[CSI]))
        return Address(kind, str(int(found.group(1))), options, True, word)
    return Address(kind, place, options, True, word)


def _kind(word: str) -> Optional[str]:
    lower = word.lower()
    if lower.startswith(_NETWORK):
        return NETWORK
    if lower.startswith("csi:"):
        return CSI
    if _DEVICE.match(word.split("?", 1)[0]):
        return DEVICE
    return FILE if lower.endswith(_SUFFIXES) and not os.path.isdir(word) else None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    who, at, host = place.rpartition("@")
    user, colon, _ = who.partition(":")
    return url if not colon else "%s://%s:***%s%s%s%s" % (scheme, user, at, host, slash, path)


def _is_bare_number(word: str) -> bool:
    return re.match(r"^\d{1,3}$", word) is not None


def _split(word: str, kind: str) -> Tuple[str, Dict[str, str]]:
    """The camera, and its options."""
    place, _, rest = word.partition("?")
    options: Dict[str, str] = {}
    for part in rest.split("&") if rest else []:
        name, _, value = part.partition("=")
        known = _OPTIONS[kind]
        if name not in known:
            raise StreamError("%s: %r is no option: use %s, as in %s" % (word, name, ", ".join(known), _EXAMPLES[kind]))
        if name == "format":
            good = re.match(r"^[A-Za-z0-9]{4}$", value) is not None
            wanted = "four letters, such as MJPG or YUYV"
        else:
            low, high = _NUMBERS[name]
            good = re.match(r"^\d{1,6}$", value) is not None and low <= int(value) <= high
            wanted = "a number from %d to %d" % (low, high)
        if not good:
            raise StreamError("%s: %s=%s is not %s" % (word, name, value, wanted))
        options[name] = value
    return place, options
