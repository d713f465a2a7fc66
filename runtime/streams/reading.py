"""Frames of a stream as they come: read in a thread, so that the newest is at hand when it is asked for."""

import threading
import time
from collections import deque
from typing import Callable, Deque, Iterator, List, NamedTuple, Optional

from ..errors import StreamError
from ..records import Array
from .address import Address
from .opening import Opened, open_stream

FPS = 30.0  # of a stream that does not state it
_AHEAD = 2  # frames of a file that are read before they are asked for
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds between two tries to open a stream again
_ASKED_EVERY = 0.2  # seconds: so long an iteration may last that is to stop
_COUNTED = (".mp4", ".m4v", ".mov", ".avi")  # kinds of files that say how many frames they have; others estimate it
_ENOUGH = 0.98  # of those frames: some count a few that cannot be decoded


class Frame(NamedTuple):
    """image: uint8 (H, W, 3), blue, green, red. number: counted from 0 over all that the stream gave, also those that
    nobody asked for. time: when it came, in seconds since 1970; seen: the same by time.monotonic(). position: seconds
    from the start of a file, None of what is live. scene: how often the stream had been opened again."""

    image: Array
    number: int
    time: float
    seen: float
    position: Optional[float]
    scene: int


class FrameReader:
    """The frames of a stream, as an iterator; used as a context manager.

    Of what is live only the newest frame is kept: whoever is slower than the camera gets fewer frames, not later ones.
    Of a file every frame is, unless it is to come in `realtime`. A live stream that drops is opened again.
    """

    def __init__(self, address: Address, every: int = 1, realtime: bool = False, reconnects: int = 10) -> None:
        """every: which frames are handed out: each, every second, ... realtime: a file's frames come at its own pace,
        as if it were live. reconnects: how often in a row a dropped stream is tried to be opened again.

        The stream is opened in the reader's thread, since that may take long: `wait_until_open` waits for it.
        """
        self.address = address
        self.newest = address.live or realtime
        self.dropped = 0  # frames that a newer one took the place of
        self.damaged = 0  # frames that could not be decoded
        self._paced = realtime and not address.live
        self._every, self._reconnects = every, reconnects
        self._opened: Optional[Opened] = None
        self._changed = threading.Condition()
        self._waiting: Deque[Frame] = deque()
        self._news: Deque[str] = deque(maxlen=50)
        self._closing = threading.Event()
        self._ended = False
        self._error: Optional[BaseException] = None
        self._number = 0
        self.scene = 0
        self._thread = threading.Thread(target=self._read, name="stream", daemon=True)
        self._thread.start()

    @property
    def fps(self) -> Optional[float]:
        """Frames a second, as the stream states them; None before it is open, and where it does not."""
        return None if self._opened is None else self._opened.fps

    @property
    def library(self) -> Optional[str]:
        """What reads the stream: "FFMPEG", "GSTREAMER", "V4L2"; None before it is open."""
        return None if self._opened is None else self._opened.reader

    def wait_until_open(self) -> None:
        """Raises StreamError where the stream cannot be opened."""
        while self._opened is None:
            with self._changed:
                self._changed.wait_for(lambda: self._opened is not None or self._ended, _ASKED_EVERY)
            if self._error is not None and self._opened is None:
                raise self._error

    def next(self, timeout: Optional[float] = None) -> Optional[Frame]:
        """The next frame; None if there is none within `timeout` seconds, or at the end, which `ended` tells apart.
        Raises StreamError for a stream that cannot be opened, or dropped and did not come back."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended, timeout)
            if self._waiting:
                frame = self._waiting.popleft()
                self._changed.notify_all()
                return frame
            if self._error is not None:
                raise self._error
            return None

    @property
    def ended(self) -> bool:
        """Whether there is no frame any more. It never is for a stream that ended in an error, which `next` raises."""
        return self._ended and not self._waiting and self._error is None

    def __iter__(self) -> Iterator[Frame]:
        while not self.ended:
            frame = self.next(_ASKED_EVERY)
            if frame is not None:
                yield frame

    def news(self) -> List[str]:
        """What happened to the stream since this was last asked: that it dropped, that it is back. A line each."""
        found: List[str] = []
        while self._news:
            found.append(self._news.popleft())
        return found

    def close(self, on_wait: Optional[Callable[[], object]] = None) -> None:
        """Let go of the camera, and wait until that is done: one that sends nothing lets go after ten seconds.
        on_wait: is called where it takes longer than one."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(1.0)
        if self._thread.is_alive():
            if on_wait is not None:
                on_wait()
            self._thread.join()
        self._waiting.clear()

    def __enter__(self) -> "FrameReader":
        try:
            self.wait_until_open()
        except BaseException:
            self._closing.set()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- in the thread

    def _read(self) -> None:
        opened: Optional[Opened] = None
        try:
            opened = self._open()
            while not self._closing.is_set():
                self._play(opened)
                opened.capture.release()
                if self._closing.is_set() or not self.address.live:
                    break
                opened = self._open_again(opened)
        except Exception as error:  # told where frames are asked for; here, nobody would know
            self._error = error
        finally:
            if opened is not None:
                opened.capture.release()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _open(self) -> Opened:
        opened = open_stream(self.address)
        with self._changed:
            self._opened = opened
            self._changed.notify_all()
        return opened

    def _play(self, opened: Opened) -> None:
        """Hand out frames until the stream ends or drops."""
        fps = opened.fps or FPS
        start = time.monotonic()
        while not self._closing.is_set() and opened.grab():
            number, self._number = self._number, self._number + 1
            if self._paced and self._closing.wait(max(0.0, start + number / fps - time.monotonic())):
                return
            if number % self._every:
                continue
            seen, now = time.monotonic(), time.time()
            image = opened.retrieve()
            if image is None:
                self.damaged += 1
                continue
            position = None if self.address.live else number / fps
            self._hand_out(Frame(image, number, now, seen, position, self.scene))
        all_of_them = opened.frames if self.address.text.lower().endswith(_COUNTED) else None
        if all_of_them is not None and not self._closing.is_set() and self._number < all_of_them * _ENOUGH - 1:
            raise StreamError(
                "%s ends after %d of its %d frames: it is damaged, or cut off"
                % (self.address.shown, self._number, all_of_them)
            )
        if not self.address.live and not self._number:
            raise StreamError("%s has no frame that can be decoded" % self.address.shown)

    def _hand_out(self, frame: Frame) -> None:
        with self._changed:
            if self.newest:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            else:
                self._changed.wait_for(lambda: len(self._waiting) < _AHEAD or self._closing.is_set())
            self._waiting.append(frame)
            self._changed.notify_all()

    def _open_again(self, before: Opened) -> Opened:
        """The stream, opened anew; the one before where nobody waits any more. Raises StreamError when it does not
        come back."""
        shown = self.address.shown
        wait, what = _FIRST_WAIT, "it dropped after %d frames" % self._number
        for turn in range(self._reconnects):
            self._news.append("%s: %s; trying again in %g s" % (shown, what, wait))
            if self._closing.wait(wait):
                return before
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                opened = self._open()
            except StreamError as error:
                what = "it is still away"
                if turn == self._reconnects - 1:
                    raise StreamError("%s, tried %d times since it dropped" % (error, self._reconnects))
                continue
            self.scene += 1
            self._news.append("%s: it is back" % shown)
            return opened
        raise StreamError("%s dropped after %d frames" % (shown, self._number))
