"""How fast photos are decoded here, measured, and what makes that slower than it need be."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import List, NamedTuple, Optional

import numpy as np

from ..images.decode import decode
from ..records import Array
from ..system.machine import usable_cpus
from ..system.scratch import temporary_folder

WIDTH, HEIGHT, SIDE = 1600, 1200, 224  # of the photo that is decoded, and the side that a network wants of it
SECONDS = 0.4  # that each measurement takes
_THREADS = 4  # at most: as many as training decodes with
_GOVERNOR = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_DRIVER = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"


class Decoding(NamedTuple):
    """library: what decodes. one, all: photos a second by one thread and by `threads`. slow: what makes it slow, a
    sentence each with what to do."""

    library: str
    one: float
    all: float
    threads: int
    slow: List[str]

    def render(self) -> str:
        several = ", %.0f on %d" % (self.all, self.threads) if self.threads > 1 else ""
        return "a JPEG of %d x %d for %d px: %.0f photos/s on one core%s, by %s" % (
            WIDTH,
            HEIGHT,
            SIDE,
            self.one,
            several,
            self.library,
        )


def measure_decoding(seconds: float = SECONDS) -> Optional[Decoding]:
    """Decode a made photo again and again. None where no image library is here to make it."""
    with temporary_folder("doctor") as folder:
        path = os.path.join(folder, "photo.jpg")
        library = _write_photo(path)
        if library is None:
            return None
        threads = min(_THREADS, usable_cpus())
        one = _rate(path, 1, seconds)
        several = _rate(path, threads, seconds) if threads > 1 else one
        return Decoding(library, one, several, threads, _slow(one, several, threads))


def _photo() -> Array:
    """uint8 (HEIGHT, WIDTH, 3): smooth shapes and some noise, which a JPEG stores in about as many bytes as a photo."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [np.sin(rows / (31.0 + 7 * i)) * np.cos(columns / (47.0 - 5 * i)) for i in range(3)]
    noise = np.random.RandomState(0).uniform(-18, 18, (HEIGHT, WIDTH, 1))
    pixels = 128 + 90 * np.stack(planes, axis=2) + noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _write_photo(path: str) -> Optional[str]:
    """Write the photo; what will decode it, in words. None without a library."""
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps

        PIL.Image.fromarray(_photo()).save(path, quality=90)
        if hasattr(PIL.ImageOps, "exif_transpose"):
            return "Pillow %s" % PIL.__version__
    except ImportError:
        pass
    try:
        import cv2

        cv2.imwrite(path, np.ascontiguousarray(_photo()[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
        return "OpenCV %s" % cv2.__version__
    except ImportError:
        return None


def _rate(path: str, threads: int, seconds: float) -> float:
    """Photos a second."""
    decode(path, at_least=SIDE)  # what is loaded at the first is no part of it

    def turns(end: float) -> int:
        done = 0
        while time.time() < end:
            decode(path, at_least=SIDE)
            done += 1
        return done

    start = time.time()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(turns, [start + seconds] * threads))
    return done / max(time.time() - start, 1e-9)


def _slow(one: float, several: float, threads: int) -> List[str]:
    found: List[str] = []
    try:
        import PIL.features
        import PIL.ImageOps

        if not hasattr(PIL.ImageOps, "exif_transpose"):
            raise ImportError
        check = getattr(PIL.features, "check_feature", None)
        if check is not None and check("libjpeg_turbo") is False:
            found.append("this Pillow was built without libjpeg-turbo: pip install --force-reinstall pillow")
    except ImportError:
        found.append(
            "OpenCV decodes large JPEGs whole, where Pillow skips the pixels that nobody needs: pip install 'pillow>=6'"
        )
    if threads > 1 and several < 0.6 * threads * one:
        busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        found.append(
            "%d threads decode only %.1f times as fast as one: %s"
            % (
                threads,
                several / max(one, 1e-9),
                "other programs keep the cores busy (load %.1f)" % busy
                if busy > 0.5 * usable_cpus()
                else "the cores share what they need, or the process gets less than it is shown",
            )
        )
    governor, driver = _line(_GOVERNOR), _line(_DRIVER)
    # Of these two drivers powersave is the ordinary setting, in which clocks rise with the load.
    if governor == "powersave" and driver not in ("intel_pstate", "amd-pstate-epp"):
        found.append("the CPU is held at its lowest clock (powersave): sudo cpupower frequency-set -g performance")
    if usable_cpus() < (os.cpu_count() or 1):
        found.append("this process may use %d of the machine's %d cores" % (usable_cpus(), os.cpu_count() or 1))
    return found


def _line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""
