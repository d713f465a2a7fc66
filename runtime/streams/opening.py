"""A stream opened by OpenCV, with the reader that suits it here; and why it does not open."""

import os
import socket
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Type

from ..errors import StreamError
from ..records import Array
from .address import CSI, DEVICE, FILE, Address
from .opencv import has_ffmpeg, has_gstreamer, is_jetson, load_opencv
from .pipelines import csi_pipeline, rtsp_pipeline

OPEN_WITHIN, READ_WITHIN = 10.0, 10.0  # seconds, after which a network stream counts as dead
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_ASK_WITHIN = 5.0
_THREADS = "OPENCV_FFMPEG_THREADS"  # by which OpenCV can be told how many threads decode
# What it is read by: the words that OpenCV opens, the number of its reader, and parameters.
_Way = Tuple[str, int, List[int]]


class Opened(NamedTuple):
    """capture: cv2.VideoCapture. fps: frames a second as the stream states them; None: it does not. frames: how many a
    file has, by its own account; None: unknown. reader: what OpenCV reads it with. error: what OpenCV raises."""

    capture: Any
    fps: Optional[float]
    frames: Optional[int]
    reader: str
    error: Type[BaseException]

    def grab(self) -> bool:
        """Go to the next frame; False at the end, and where the stream broke."""
        try:
            return bool(self.capture.grab())
        except self.error:
            return False

    def retrieve(self) -> Optional[Array]:
        """Decode that frame: uint8 (H, W, 3), blue, green, red; None where that cannot be done."""
        try:
            done, image = self.capture.retrieve()
        except self.error:
            return None
        return _three_channels(image) if done and image is not None else None


def open_stream(address: Address) -> Opened:
    """Raises StreamError, in one line, for what cannot be opened."""
    cv2 = load_opencv()
    _check(address, cv2)
    for words, reader, parameters in _ways(address, cv2):
        capture = _capture(cv2, words, reader, parameters)
        if capture is not None:
            if address.kind == DEVICE:
                _set_up(cv2, capture, address)
            return Opened(capture, *_facts(cv2, capture, address), cv2.error)
    raise StreamError(_reason(address, cv2))


def _check(address: Address, cv2: Any) -> None:
    """Raise StreamError for what need not be tried."""
    text = address.text
    if address.kind == FILE:
        if not os.path.exists(text):
            raise StreamError("no such video: %s" % text)
        if not os.path.getsize(text):
            raise StreamError("%s is empty (0 bytes)" % text)
        if not os.access(text, os.R_OK):
            raise StreamError("cannot read %s: Permission denied" % text)
    elif address.kind == DEVICE:
        if not os.path.exists(text):
            there = sorted(name for name in os.listdir("/dev") if name.startswith("video") and name[5:].isdigit())
            raise StreamError(
                "no camera at %s: %s"
                % (text, "there is %s" % ", ".join("/dev/" + n for n in there) if there else "there is none on USB")
            )
        if not os.access(text, os.R_OK | os.W_OK):
            raise StreamError(
                "cannot open %s: Permission denied: sudo usermod -aG video $USER, and log in again" % text
            )
    elif address.kind == CSI and not has_gstreamer(cv2):
        raise StreamError(
            "%s needs an OpenCV with GStreamer, which pip's has not: sudo apt-get install nvidia-opencv, and start it "
            "with the system's python3" % address.shown
        )


def _ways(address: Address, cv2: Any) -> List[_Way]:
    """What to try, the best first."""
    if address.kind == CSI:
        return [(csi_pipeline(address), cv2.CAP_GSTREAMER, [])]
    if address.kind == DEVICE:
        return [(address.text, cv2.CAP_V4L2, [])]
    ways: List[_Way] = []
    if has_ffmpeg(cv2):
        ways.append((address.text, cv2.CAP_FFMPEG, _parameters(cv2, address.live)))
    if has_gstreamer(cv2):
        if address.text.lower().startswith("rtsp"):
            on_jetson = is_jetson()
            one: _Way = (rtsp_pipeline(address.text, on_jetson), cv2.CAP_GSTREAMER, [])
            ways = [one] + ways if on_jetson else ways + [one]  # there, it decodes in hardware
        else:
            ways.append((address.text, cv2.CAP_GSTREAMER, []))
    return ways or [(address.text, cv2.CAP_ANY, [])]


def _parameters(cv2: Any, live: bool) -> List[int]:
    """Of FFmpeg's reader: when a network stream counts as dead; one thread to decode with, since with n of them it
    hands out each frame n - 1 frames late (H.264: measured). Older releases of OpenCV know fewer of these: they wait
    for 30 s, and decode with every core."""
    if not live:
        return []
    wanted = [("CAP_PROP_OPEN_TIMEOUT_MSEC", OPEN_WITHIN * 1e3), ("CAP_PROP_READ_TIMEOUT_MSEC", READ_WITHIN * 1e3)]
    if _THREADS not in os.environ:
        wanted.append(("CAP_PROP_N_THREADS", 1))
    return [int(n) for name, value in wanted if hasattr(cv2, name) for n in (getattr(cv2, name), value)]


def _capture(cv2: Any, words: str, reader: int, parameters: List[int]) -> Any:
    """The capture; None where it does not open."""
    try:
        capture = cv2.VideoCapture(words, reader, parameters) if parameters else cv2.VideoCapture(words, reader)
    except TypeError:  # a release whose captures take none
        capture = cv2.VideoCapture(words, reader)
    except cv2.error:
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _set_up(cv2: Any, capture: Any, address: Address) -> None:
    """Ask the camera for what is wanted, its format first: the sizes that it has depend on that."""
    letters = address.options.get("format")
    if letters is not None:
        fourcc: Callable[..., int] = getattr(cv2, "VideoWriter_fourcc", None) or cv2.VideoWriter.fourcc
        capture.set(cv2.CAP_PROP_FOURCC, fourcc(*letters.upper()))
    for name, key in (("width", "FRAME_WIDTH"), ("height", "FRAME_HEIGHT"), ("fps", "FPS")):
        value = address.number(name)
        if value is not None:
            capture.set(getattr(cv2, "CAP_PROP_" + key), value)


def _facts(cv2: Any, capture: Any, address: Address) -> Tuple[Optional[float], Optional[int], str]:
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    reader = capture.getBackendName() if hasattr(capture, "getBackendName") else "OpenCV"
    return (
        float(fps) if 0 < fps <= 1000 else None,  # it is 0, NaN or the clock's rate where nobody knows
        int(count) if not address.live and 0 < count < 2**40 else None,
        str(reader),
    )


def _reason(address: Address, cv2: Any) -> str:
    """Why it did not open, as far as can be found out."""
    shown = address.shown
    if address.kind == FILE:
        hint = "" if has_ffmpeg(cv2) else " by this OpenCV, which was built without FFmpeg"
        return "%s is not a readable video%s" % (shown, hint)
    if address.kind == DEVICE:
        return (
            "cannot open %s: another program may use it, or it is no camera (v4l2-ctl --list-devices names them)"
            % shown
        )
    if address.kind == CSI:
        return (
            "cannot open %s: no camera is found there, or it has no such size (nvarguscamerasrc on a Jetson; "
            "sudo systemctl restart nvargus-daemon if it worked before)" % shown
        )
    silence = _silence(address.text)
    if silence is not None:
        return "cannot open %s: %s" % (shown, silence)
    return "cannot open %s: it answers, but plays no video there: check the path, the user and the password" % shown


def _silence(url: str) -> Optional[str]:
    """Why nobody answers at the address; None: somebody does."""
    scheme, _, rest = url.partition("://")
    place = rest.split("/", 1)[0].split("?", 1)[0].rpartition("@")[2]
    host, _, port = place.rpartition(":") if place.rpartition(":")[2].isdigit() else (place, "", "")
    host = host.strip("[]")
    number = int(port) if port else _PORTS.get(scheme.lower(), 80)
    try:
        socket.create_connection((host, number), _ASK_WITHIN).close()
        return None
    except socket.timeout:
        return "%s, port %d, does not answer: is it on, and in this network?" % (host, number)
    except (OSError, ValueError, OverflowError) as error:
        return "%s, port %d: %s" % (host, number, getattr(error, "strerror", None) or error)


def _three_channels(image: Array) -> Array:
    """uint8 (H, W), (H, W, 1) or (H, W, 4), which some cameras give, -> (H, W, 3)."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] == 3:
        return image
    return image[:, :, :3] if image.shape[2] > 3 else image.repeat(3, axis=2)
