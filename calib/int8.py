"""``da3 calibrate --int8``: how large the numbers are that a backbone's convolutions read, into the bundle.

Engines are quantised from it on the device (see da3.runtime.onnx_graph.int8). The float32 files stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from da3.calib.errors import CalibrationError
from da3.calib.ranges import Histogram, Watched, ranges_of
from da3.runtime import Domain, Runtime
from da3.runtime.backends import OrtBackend
from da3.runtime.bundle import Bundle, file_entry, put_file, read_domain, to_json
from da3.runtime.errors import ImageError
from da3.runtime.images import Preprocessing, evenly, expand
from da3.runtime.onnx_graph import INT8_FILE, INT8_FORMAT

MOST_PHOTOS = 256  # of each domain: half to measure on, half to compare on
# Measured, see docs/runtime.md: below 99.99 clipping costs accuracy; the maximum itself hangs on a single photo.
PERCENT = 99.999
BATCH = 16

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Agreement:
    """A domain with INT8 against float32, on ``photos`` photos that were not measured.

    ``same_answer``: share of the photos. ``same_decisions``: share of the photos that leave at the same exit, or of the
    gates' decisions where the domain has gates; None where nothing is decided. ``logit_error``: the largest difference
    of a logit among photos for which the same was decided (NaN: there are none); ``logit_largest``: the largest logit's
    magnitude.
    """

    domain: str
    photos: int
    same_answer: float
    same_decisions: float | None
    logit_error: float
    logit_largest: float


@dataclass(frozen=True)
class Int8Calibration:
    """``measured``: how many photos were. ``values``: how many values the convolutions read, of which ``quantised``
    are. ``unreadable``: (path, reason) of each photo that was left out."""

    measured: int
    quantised: int
    values: int
    agreements: tuple[Agreement, ...]
    unreadable: tuple[tuple[str, str], ...]


def calibrate_int8(
    bundle: str | Path,
    photos: Mapping[str, str | Path],
    depthwise: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> Int8Calibration:
    """Measure INT8 ranges of ``bundle``'s backbone and write them into it, in place of earlier ones.

    ``photos``: a folder of pictures (or one with ``val/``) for each domain; labels are not needed. ``depthwise``:
    quantise depthwise convolutions too. The bundle is changed at the very end, and atomically. Raises CalibrationError
    and runtime errors.
    """
    if not photos:
        raise CalibrationError("name a domain at least, and a folder of its photos")
    with Bundle(bundle) as opened:
        opened.require_directory()
        domains = [read_domain(opened, name) for name in photos]
        preprocessing = opened.manifest.preprocessing
        watched = Watched(opened)
        if not watched.depthwise:
            raise CalibrationError(f"{opened.path}: its backbone has no convolutions, so INT8 would change nothing")
        unreadable: list[tuple[str, str]] = []
        pixels = {d.name: _load(preprocessing, d.name, photos[d.name], unreadable, on_progress) for d in domains}
        measured = {d.name: pixels[d.name][::2] for d in domains}
        histograms = _measure(watched, domains, measured, preprocessing, on_progress)
        read = {key: h for key, h in histograms.items() if not watched.depthwise.get(key, True)}
        if depthwise:
            read = {key: h for key, h in histograms.items() if key in watched.depthwise}
        ranges = ranges_of(read, PERCENT)
        others = ranges_of({key: h for key, h in histograms.items() if key in watched.others}, PERCENT)
        count = sum(map(len, measured.values()))
        data = to_json(
            {
                "format": INT8_FORMAT,
                "percent": PERCENT,
                "photos": count,
                "domains": list(photos),
                "ranges": ranges,
                "others": others,
            }
        )
        held_out = {d.name: pixels[d.name][1::2] for d in domains}
        agreements = _compare(opened, data, held_out, preprocessing, on_progress)
        put_file(opened, INT8_FILE, data)
    return Int8Calibration(
        measured=count,
        quantised=sum(map(len, ranges.values())),
        values=len(watched.depthwise),
        agreements=tuple(agreements),
        unreadable=tuple(unreadable),
    )


def _load(
    preprocessing: Preprocessing,
    domain: str,
    data: str | Path,
    unreadable: list[tuple[str, str]],
    on_progress: Progress,
) -> Pixels:
    """(N, S, S, 3), at most MOST_PHOTOS, spread evenly over the folder."""
    root = Path(data).expanduser()
    folder = root / "val" if (root / "val").is_dir() else root
    found = expand([folder])
    paths = evenly(found, MOST_PHOTOS)
    pixels = []
    for done, path in enumerate(paths, 1):
        try:
            pixels.append(preprocessing.load(path))
        except ImageError as error:
            unreadable.append((path, str(error)))
        on_progress(f"reading photos of {domain}", done, len(paths))
    if len(pixels) < 2:
        raise CalibrationError(
            f"{folder}: {len(pixels)} of {len(found)} photos can be read; INT8 needs 2, to measure on one and compare "
            f"on the other, and about 100 to tell much"
        )
    return np.stack(pixels)


def _measure(
    watched: Watched,
    domains: list[Domain],
    pixels: Mapping[str, Pixels],
    preprocessing: Preprocessing,
    on_progress: Progress,
) -> dict[tuple[str, str], Histogram]:
    """Each photo as the domain has it if it does not leave, and with all blocks on where they are not."""
    histograms: dict[tuple[str, str], Histogram] = defaultdict(Histogram)

    def watch(file: str, name: str, values: NDArray[np.float32]) -> None:
        histograms[file, name].add(values)

    total = sum(map(len, pixels.values()))
    done = 0
    for domain in domains:
        for picture in pixels[domain.name]:
            image = preprocessing.normalise(picture[None])
            if not watched.run(domain, image, watch):
                watched.run(domain, image, watch, all_blocks=True)
            done += 1
            on_progress("measuring", done, total)
    return histograms


class _MeasuredBundle(Bundle):
    """A bundle as if its int8.json were written already."""

    def __init__(self, path: str, data: bytes):
        super().__init__(path, may_store=False)
        self._data = data
        self.manifest = self.manifest._replace(files={**self.manifest.files, INT8_FILE: file_entry(data)})

    def read(self, name: str) -> bytes:
        return self._data if name == INT8_FILE else super().read(name)


class _Answers(NamedTuple):
    """logits: float32 (N, classes); blocks: bool (N, n_blocks), True where the block ran; left: (N,), the exit."""

    logits: NDArray[np.float32]
    blocks: NDArray[np.bool_]
    left: NDArray[np.int64]


def _compare(
    bundle: Bundle, data: bytes, pixels: Mapping[str, Pixels], preprocessing: Preprocessing, on_progress: Progress
) -> list[Agreement]:
    """Each domain's answers on its photos with INT8 as ``data`` has it, against float32."""
    gateable = [step.block for step in bundle.manifest.plan if step.gate is not None and step.block is not None]
    total = sum(map(len, pixels.values()))
    done = 0
    agreements = []
    with (
        Runtime(Bundle(bundle.path, may_store=False), OrtBackend()) as exact,
        Runtime(_MeasuredBundle(bundle.path, data), OrtBackend(precision="int8")) as rounded,
    ):
        for name, pictures in pixels.items():
            exact.use(name)
            rounded.use(name)
            pairs = []
            for start in range(0, len(pictures), BATCH):
                images = preprocessing.normalise(pictures[start : start + BATCH])
                pairs.append((exact.run_batch(images), rounded.run_batch(images)))
                done += len(images)
                on_progress("comparing with float32", done, total)
            wanted, found = (
                _Answers(
                    np.concatenate([result.logits for result in results]),
                    np.concatenate([result.blocks for result in results]),
                    np.concatenate([result.left for result in results]),
                )
                for results in zip(*pairs, strict=True)
            )
            domain = exact.use(name)
            agreements.append(_agreement(domain, wanted, found, gateable if domain.gated else []))
    return agreements


def _agreement(domain: Domain, wanted: _Answers, found: _Answers, gates: list[int]) -> Agreement:
    """gates: the blocks that the domain's gates decide."""
    same_blocks, same_exit = wanted.blocks == found.blocks, wanted.left == found.left
    same_decisions = None
    if gates:
        same_decisions = float(same_blocks[:, gates].mean())
    elif any(rule.threshold is not None for rule in domain.exits):
        same_decisions = float(same_exit.mean())
    errors = np.abs(wanted.logits - found.logits)[same_blocks.all(axis=1) & same_exit]
    return Agreement(
        domain=domain.name,
        photos=len(wanted.logits),
        same_answer=float((wanted.logits.argmax(1) == found.logits.argmax(1)).mean()),
        same_decisions=same_decisions,
        logit_error=float(errors.max()) if errors.size else float("nan"),
        logit_largest=float(np.abs(wanted.logits).max()),
    )
