"""What a camera's frame waits for until it is answered: a camera of known times is watched over RTSP on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from da3.runtime.engine import Runtime
from da3.runtime.errors import StreamError
from da3.runtime.images import evenly, expand
from da3.runtime.streams import Durations, FrameReader, Watcher, parse_address
from da3.runtime.system import conditions, resident_bytes
from da3.toolchain.bench.marked_frames import BITS, number_of
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import Quantiles, StreamReport

_DIFFERENT = 240  # frames that the camera has, which it sends over and over
_PHOTOS = 16
_SETTLED = 100  # frames after which memory is looked at for the first time
_PROCESS = "da3.toolchain.bench.camera_process"


class _Camera(NamedTuple):
    """An address, and what tells when its playing began."""

    url: str
    process: subprocess.Popen[str]

    def played(self) -> float:
        """time.monotonic() of the first frame; the clock is that of all processes."""
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


def bench_stream(
    bundle: str | os.PathLike[str],
    domain: str | None,
    reporter: BenchReporter,
    *,
    frames: int = 1000,
    fps: float = 30.0,
    size: tuple[int, int] = (640, 480),
    images: Sequence[str] | None = None,
    threads: int | None = None,
    backend: str = "auto",
) -> StreamReport:
    """Answer ``frames`` frames of a camera that sends JPEGs of ``size`` (width, height: multiples of 16) over RTSP.

    Every frame says which one it is, and so when it was sent. ``images``: photos that it pans over; None makes some.
    Raises StreamError for what cannot be measured.
    """
    width, height = size
    if width % 16 or height % 16 or not 96 <= min(size) <= max(size) <= 2032:
        raise StreamError(f"--size {width}x{height}: sides are multiples of 16, from 96 to 2032")
    if frames <= _SETTLED:
        raise StreamError(f"--frames {frames}: more than {_SETTLED} are needed, by then memory is what it stays")
    photos = evenly(expand(images), _PHOTOS) if images else []
    reporter.at("starting the camera", 0, frames)
    with Runtime(bundle, backend=backend, threads=threads) as runtime, _camera(size, fps, photos) as camera:
        name = runtime.use_only().name if domain is None else runtime.load(domain).name
        watcher = Watcher(runtime, name)
        coming, whole = Durations(), Durations()
        settled = 0
        with FrameReader(parse_address(camera.url)) as reader:
            played = camera.played()
            cpu, start = time.process_time(), time.monotonic()
            for frame in reader:
                seen = watcher(frame)
                done = time.monotonic()
                sent = played + _sent_after(number_of(frame.image), frame.seen - played, fps)
                coming.add(frame.seen - sent)
                whole.add(done - sent)
                if whole.count == _SETTLED:
                    settled = resident_bytes()
                if whole.count == frames:
                    break
                if whole.count % 30 == 0:
                    reporter.at(f"{seen.prediction.label}, {1e3 * seen.latency_s:.1f} ms", whole.count, frames)
            cpu, seconds = time.process_time() - cpu, time.monotonic() - start
            resident = resident_bytes()
        figures = watcher.figures
        return {
            "domain": name,
            "frames": figures.frames,
            "dropped": reader.dropped,
            "fps": figures.fps,
            "sent_to_answer_ms": _quantiles(whole),
            "sent_to_arrival_ms": _quantiles(coming),
            "arrival_to_answer_ms": _quantiles(figures.latency),
            "engine_ms": _quantiles(figures.engine),
            "prepare_ms": _quantiles(figures.prepare),
            "engine_share": figures.engine.total / whole.total,
            "flops_share": figures.flops_share,
            "cpu_share": cpu / seconds,
            "settled_bytes": settled,
            "growth_bytes": resident - settled,
            "conditions": {
                **conditions(),
                "size": f"{width}x{height}",
                "sent_fps": fps,
                "network_px": runtime.preprocessing.size,
                "backend": runtime.backend,
                "reader": reader.library,
            },
        }


def _sent_after(number: int, arrived: float, fps: float) -> float:
    """How long after the first frame one with this number was sent that arrived after ``arrived`` seconds."""
    earliest = number / fps
    return earliest + max(0, int((arrived - earliest) * fps / _DIFFERENT + 1e-6)) * _DIFFERENT / fps


@contextmanager
def _camera(size: tuple[int, int], fps: float, photos: Sequence[str]) -> Iterator[_Camera]:
    assert _DIFFERENT <= 2**BITS
    asked = {"count": _DIFFERENT, "width": size[0], "height": size[1], "fps": fps, "photos": list(photos)}
    words = [sys.executable, "-m", _PROCESS, json.dumps(asked)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                last = process.stderr.read().strip().split("\n")[-1]
                raise StreamError(f"the camera did not start: {last}")
            yield _Camera(url, process)
        finally:
            process.kill()


def _quantiles(durations: Durations) -> Quantiles:
    return {f"p{percent}": 1e3 * durations.percentile(percent) for percent in (50, 90, 99)}
