"""A video file of what was seen, written whole: it appears under its name once it can be played."""

import os
import shutil
from typing import Any, Optional, Tuple

from ..errors import StreamError
from ..records import Array
from .opencv import load_opencv

_CODES = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_SPARE = 64 * 2**20  # bytes that are left free on the disk: a video whose end cannot be written plays nowhere
_LOOKED_EVERY = 30  # frames between two looks at the disk
_LONGEST_GAP = 10.0  # seconds that are filled with the frame before


def check_name(path: str) -> str:
    """How a video of this name is encoded, in four letters. Raises StreamError for a name that is no video's."""
    code = _CODES.get(os.path.splitext(path)[1].lower())
    if code is None:
        raise StreamError("--save %s: name it .mp4, .mkv or .avi" % path)
    return code


class Recorder:
    """Writes frames as a video whose time passes as theirs did: frames that came late are held, by being repeated."""

    def __init__(self, path: str, fps: float) -> None:
        """path: its ending says which kind of file. fps: of the video. Raises StreamError for what cannot be written;
        the file itself is begun with the first frame."""
        self.path = path
        self.written = 0
        self._fps = fps
        self._code = check_name(path)
        folder, name = os.path.split(os.path.abspath(path))
        self._folder = folder
        # The ending stays behind: by it OpenCV chooses the kind of file.
        self._fresh = os.path.join(folder, ".writing-%d-%s" % (os.getpid(), name))
        self._cv2 = load_opencv()
        self._writer: Any = None
        self._size: Tuple[int, int] = (0, 0)
        self._last: Optional[Array] = None
        self._start = 0.0  # what `at` was when the video began, or went on after a gap
        self._scene = -1
        self._base = 0

    def add(self, image: Array, at: float, scene: int = 0) -> None:
        """image: uint8 (H, W, 3), blue, green, red. at: seconds, rising. scene: while the stream was away between two
        of them, no time passes in the video. Raises StreamError where the disk is full or the file cannot be begun."""
        if self._writer is None:
            self._begin(image)
        if self.written % _LOOKED_EVERY == 0 and shutil.disk_usage(self._folder).free < _SPARE:
            raise StreamError("--save: the disk of %s is full: what was recorded so far is kept" % self.path)
        if scene != self._scene or self._due(at) - self.written > _LONGEST_GAP * self._fps:
            self._scene, self._start, self._base = scene, at, self.written
        if image.shape[1::-1] != self._size:
            image = self._cv2.resize(image, self._size)
        due = self._due(at)
        if self._last is not None and due - self.written > 1:  # one too few or too many is how cameras are
            while self.written < due:
                self._write(self._last)
        if self.written <= due + 1:  # else more frames come than the video has
            self._write(image)
        self._last = image

    def finish(self) -> bool:
        """End the video and give it its name. False where there was no frame, and so no file. Raises StreamError."""
        if self._writer is None:
            return False
        self._writer.release()
        self._writer = self._last = None
        try:
            if not self.written or not os.path.getsize(self._fresh):
                raise StreamError("--save: nothing could be written to %s" % self.path)
            with open(self._fresh, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._fresh, self.path)
        except OSError as error:
            raise StreamError("--save: cannot write %s: %s" % (self.path, error.strerror or error))
        finally:
            if os.path.exists(self._fresh):
                os.remove(self._fresh)
        return True

    def _due(self, at: float) -> int:
        """How many frames the video should have before the one of this time."""
        return self._base + int((at - self._start) * self._fps + 0.5)

    def _begin(self, image: Array) -> None:
        size = (image.shape[1], image.shape[0])
        fourcc = getattr(self._cv2, "VideoWriter_fourcc", None) or self._cv2.VideoWriter.fourcc
        writer = self._cv2.VideoWriter(self._fresh, fourcc(*self._code), self._fps, size)
        if not writer.isOpened():
            writer.release()
            if os.path.exists(self._fresh):
                os.remove(self._fresh)
            raise StreamError("--save: this OpenCV cannot write %s: try a name that ends in .avi" % self.path)
        self._writer, self._size = writer, size

    def _write(self, image: Array) -> None:
        self._writer.write(image)
        self.written += 1
