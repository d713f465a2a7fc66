"""Frames that a domain was unsure of, kept as pictures to be labelled next."""

import os
import time
from typing import Callable, Optional

from ..errors import Da3Error, printable
from ..streams.address import Address
from ..streams.opencv import load_opencv
from ..streams.watching import Seen
from ..system.atomic import replace_file
from .results import folder_name
from .saving import make_folder

_EVERY_S = 1.0  # of the stream's time: frames that follow each other are all but the same
_QUALITY = 95


class UnsureFrames:
    """Writes frames whose answer's probability is below a limit, and unknown ones, one a second at most, to a folder in
    `folder` of their guessed class, as `Results` does with photos. A picture of the same name is left as it is."""

    def __init__(self, limit: Optional[float], folder: Optional[str], address: Address) -> None:
        """Makes the folder. Raises Da3Error for what cannot be done, or is only half said."""
        if limit is None or folder is None:
            raise Da3Error("--unsure-below and --to go together: --unsure-below 0.6 --to FOLDER")
        make_folder(folder, "--to")
        self._limit, self._folder = limit, folder
        self._stem = None if address.live else os.path.splitext(os.path.basename(address.text))[0]
        self._then: Optional[float] = None
        self.unsure = self.unknown = self.kept = 0

    def __call__(self, seen: Seen) -> bool:
        frame, prediction = seen.frame, seen.prediction
        below, unknown = prediction.probability < self._limit, prediction.known is False
        if not (below or unknown):
            return True
        self.unsure += below
        self.unknown += unknown and not below
        at = frame.seen if frame.position is None else frame.position
        if self._then is not None and at - self._then < _EVERY_S:
            return True
        self._then = at
        stem = time.strftime("%Y%m%d-%H%M%S", time.localtime(frame.time)) if self._stem is None else self._stem
        inner = os.path.join(self._folder, folder_name(prediction.label))
        target = os.path.join(inner, "%s-%d.jpg" % (stem, frame.number))
        try:
            make_folder(inner, "--to")
            if not os.path.lexists(target):
                cv2 = load_opencv()
                _, data = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
                replace_file(target, lambda file: file.write(data.tobytes()))
        except OSError as error:
            raise Da3Error("--to: cannot write %s: %s" % (target, error.strerror or error))
        self.kept += 1
        return True

    def tell(self, say_of_it: Callable[[str], None]) -> None:
        say_of_it(
            "%d frames below %g%s, %d kept in %s: move those that are in the wrong class's folder"
            % (
                self.unsure,
                self._limit,
                " and %d others unknown" % self.unknown if self.unknown else "",
                self.kept,
                printable(self._folder),
            )
        )
