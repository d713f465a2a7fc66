"""A window with what is seen, where there is a screen."""

import subprocess
import sys

from ..errors import StreamError
from ..records import Array
from .opencv import has_windows, load_opencv

_PROBE = "import cv2; cv2.namedWindow('da3', 0); cv2.waitKey(1); cv2.destroyAllWindows()"
_STOP = (27, ord("q"))  # keys: Esc, q
_PROBED_WITHIN = 60.0


class Window:
    """Shows frames until somebody closes it. Where it is made, it is also used: in the main thread."""

    def __init__(self, title: str) -> None:
        """Raises StreamError where no window can be shown."""
        cv2 = load_opencv()
        if not has_windows(cv2):
            raise StreamError(
                "--show: this OpenCV was built without windows: pip uninstall opencv-python-headless, then pip install "
                "opencv-python; or --save a video"
            )
        # Without a screen its libraries end the whole process: another one tries whether there is one.
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PROBE],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_PROBED_WITHIN,
            )
            there = done.returncode == 0
        except subprocess.TimeoutExpired:
            there = False
        if not there:
            raise StreamError(
                "--show: there is no screen here to show a window on: --save a video, or log in to the desktop"
            )
        self._cv2, self._title = cv2, title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = False

    def show(self, image: Array) -> bool:
        """Show uint8 (H, W, 3), blue, green, red. False once the window is closed, or Esc or q is pressed in it."""
        if not self._sized:
            self._cv2.resizeWindow(self._title, image.shape[1], image.shape[0])
            self._sized = True
        self._cv2.imshow(self._title, image)
        return self.alive()

    def alive(self) -> bool:
        """Let the window handle what it is asked; False as for `show`."""
        key = self._cv2.waitKey(1)
        if key >= 0 and key & 0xFF in _STOP:
            return False
        return bool(self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1)

    def close(self) -> None:
        self._cv2.destroyAllWindows()
