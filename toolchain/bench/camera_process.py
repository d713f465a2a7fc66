"""The camera that ``da3 bench stream`` watches, in a process of its own: its words are an object in JSON.

It prints its address, then the time.monotonic() of the first frame of each playing, and ends with its standard input.
"""

from __future__ import annotations

import json
import sys

from da3.toolchain.bench.loopback_camera import LoopbackCamera
from da3.toolchain.bench.marked_frames import camera_frames


def main() -> None:
    asked = json.loads(sys.argv[1])
    frames = list(camera_frames(asked["count"], asked["width"], asked["height"], asked["photos"]))
    with LoopbackCamera(frames, asked["fps"], on_play=lambda start: print(start, flush=True)) as camera:
        print(camera.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
