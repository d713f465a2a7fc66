"""Small videos and cameras for tests: frames that say which one they are."""

import cv2
import numpy as np

from da3.toolchain.bench.marked_frames import mark, number_of

__all__ = ["HEIGHT", "WIDTH", "frames_of", "jpegs", "number_of", "picture", "write_video"]

WIDTH, HEIGHT = 160, 120


def picture(number, width=WIDTH, height=HEIGHT):
    """uint8 (height, width, 3), blue, green, red: smooth, no two alike, and marked with its number."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [
        128 + 100 * np.sin(rows / (9.0 + 4 * i) + number / 7.0) * np.cos(columns / (13.0 - 3 * i)) for i in range(3)
    ]
    image = np.stack(planes, axis=2).astype(np.uint8)
    mark(image, number)
    return image


def write_video(path, frames=30, fps=30.0, code=None, size=(WIDTH, HEIGHT)):
    code = code or {".mp4": "mp4v", ".avi": "MJPG"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size)
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number, *size))
    writer.release()
    return path


def frames_of(path):
    """All frames of a video, as another reader than ours finds them."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while True:
        done, image = capture.read()
        if not done:
            return found
        found.append(image)


def jpegs(count):
    """The pictures 0 to count - 1, as a camera's."""
    return [cv2.imencode(".jpg", picture(number))[1].tobytes() for number in range(count)]
